//! Writes a demo report from seeded synthetic embeddings of two models.
//!
//! Run: `cargo run -p conjoin-eval --example report -- OUT [PICTURES]`
//! In:  `OUT`, the folder to write; `PICTURES`, a folder with one folder of small JPEGs per class,
//!      shown as thumbnails (without it, items are shown as text).
//! Out: `OUT/report.html` and `OUT/report.json`.
//!
//! Each class has a direction; a model sees an item as its direction plus noise, and each sense adds
//! a common offset, as real dual encoders do. The model after training sees pictures better and
//! texts a little worse.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    path::{Path, PathBuf},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use conjoin_core::{Embeddings, Modality, Rng, Seed, hash_bytes};
use conjoin_eval::{
    Bootstrap, Card, Cards, DistributionComparison, EvaluationPoint, Fact, Gate, ModelFacts,
    Report, ReportParts, Reproduction, RetrievalTask, ScoreDistribution, Timing, TrainingCurve,
    compare, examples,
};
use fs_err as fs;
use rand::Rng as _;

const SEED: Seed = Seed(7);
const WIDTH: usize = 64;
const PICTURES_PER_CLASS: usize = 12;
const CLASSES: [&str; 24] = [
    "apple",
    "aubergine",
    "avocado",
    "banana",
    "cabbage",
    "carrots",
    "cucumber",
    "garlic",
    "ginger",
    "juice",
    "kiwi",
    "leek",
    "lemon",
    "lime",
    "mango",
    "melon",
    "milk",
    "mushroom",
    "onion",
    "orange",
    "papaya",
    "peach",
    "pear",
    "yoghurt",
];

/// One model's view: how much noise it adds to each sense.
struct Model {
    text_noise: f32,
    image_noise: f32,
    seed: Seed,
}

struct Item {
    class: usize,
    card: Card,
}

impl Model {
    /// Unit vectors of items of these classes in one sense.
    fn embed(&self, classes: &[usize], sense: Modality) -> Embeddings {
        let mut rng = self.seed.stream(sense.name()).rng();
        let offset = normal(&mut SEED.stream("offset").stream(sense.name()).rng());
        let level = match sense {
            Modality::Text => self.text_noise,
            Modality::Image => self.image_noise,
        };
        let mut embeddings = Embeddings::zeros(classes.len(), WIDTH);
        for (row, class) in classes.iter().enumerate() {
            let direction = normal(&mut SEED.stream("class").at(*class as u64).rng());
            let noise = normal(&mut rng);
            for (x, value) in embeddings.row_mut(row).iter_mut().enumerate() {
                *value = direction[x] + 0.8 * offset[x] + level * noise[x];
            }
        }
        embeddings.normalize();
        embeddings
    }
}

/// About normal: the sum of twelve uniform numbers.
fn normal(rng: &mut Rng) -> Vec<f32> {
    (0..WIDTH).map(|_| (0..12).map(|_| rng.random_range(-0.5..0.5)).sum()).collect()
}

struct Shown<'a> {
    queries: &'a [Item],
    corpus: &'a [Item],
}

impl Cards for Shown<'_> {
    fn query(&self, query: u32) -> Card {
        self.queries[query as usize].card.clone()
    }

    fn item(&self, row: u32) -> Card {
        self.corpus[row as usize].card.clone()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let out = arguments.next().ok_or("the folder to write is missing")?;
    let pictures = pictures(arguments.next().as_deref())?;
    let texts = texts();
    let senses = [(&texts, Modality::Text), (&pictures, Modality::Image)];
    let before = Model { text_noise: 2.0, image_noise: 3.4, seed: SEED.stream("before") };
    let after = Model { text_noise: 2.05, image_noise: 2.5, seed: SEED.stream("after") };

    let started = Instant::now();
    let (mut was, mut is) = (Vec::new(), Vec::new());
    let (mut distributions, mut shown) = (Vec::new(), Vec::new());
    for query in senses {
        for item in senses {
            let (old, new) = (task(&before, query, item), task(&after, query, item));
            was.push(old.evaluate()?);
            is.push(new.evaluate()?);
            distributions.push(DistributionComparison {
                task: new.name.clone(),
                before: Some(ScoreDistribution::measure(&old, SEED)?),
                after: ScoreDistribution::measure(&new, SEED)?,
            });
            let cards = Shown { queries: query.0, corpus: item.0 };
            if let (Some(old), Some(new)) = (was.last(), is.last()) {
                shown.extend(examples(old, new, 1, &cards));
            }
        }
    }
    let comparison = compare(&was, &is, &Bootstrap::new(SEED))?;
    let gate = Gate { metric: "text_to_image/recall@10".parse()?, min_gain: 0.0, max_loss: 0.05 };
    let report = Report::new(ReportParts {
        title: "Grocery search: what training changed".to_owned(),
        summary: "Synthetic embeddings of two models on the same queries and items.".to_owned(),
        before: Some(facts("small-clip, as published", "frozen towers, 25 M parameters")),
        after: facts("small-clip, adapted", "900 steps of contrastive training"),
        data: data(&texts, &pictures),
        verdict: Some(gate.judge(&comparison)?),
        comparison,
        curve: Some(curve()),
        examples: shown,
        distributions,
        timings: vec![
            Timing { name: "Train".to_owned(), seconds: 742.0, items: Some(28_800) },
            Timing {
                name: "Evaluate and compare".to_owned(),
                seconds: started.elapsed().as_secs_f64(),
                items: None,
            },
        ],
        peak_memory_bytes: Some(1_320_000_000),
        reproduction: Reproduction {
            command: format!("cargo run -p conjoin-eval --example report -- {out}"),
            config_hash: hash_bytes(b"no configuration"),
            seed: Some(SEED.0),
            inputs: BTreeMap::new(),
            software: concat!("conjoin ", env!("CARGO_PKG_VERSION")).to_owned(),
            machine: env::consts::ARCH.to_owned(),
        },
    });
    report.write(Path::new(&out))?;
    Ok(())
}

fn task(
    model: &Model,
    (queries, query_modality): (&Vec<Item>, Modality),
    (corpus, item_modality): (&Vec<Item>, Modality),
) -> RetrievalTask {
    let classes = |items: &[Item]| items.iter().map(|item| item.class).collect::<Vec<_>>();
    let same = |query: &Item| {
        let rows = (0..).zip(corpus.iter()).filter(|(_, item)| item.class == query.class);
        rows.map(|(row, _)| (row, 1.0)).collect()
    };
    let itself = (query_modality == item_modality).then(|| (0..).map(Some).take(queries.len()));
    RetrievalTask {
        name: format!("{query_modality}_to_{item_modality}"),
        query_modality,
        item_modality,
        queries: model.embed(&classes(queries), query_modality),
        corpus: model.embed(&classes(corpus), item_modality),
        ids: Vec::new(),
        relevance: queries.iter().map(same).collect(),
        exclude: itself.map(Iterator::collect).unwrap_or_default(),
    }
}

fn texts() -> Vec<Item> {
    let wording =
        ["fresh {}", "{} in a basket", "a customer takes {}", "{} on the shelf", "ripe {}"];
    let text = |class: usize, words: &str| Item {
        class,
        card: Card { text: Some(words.replace("{}", CLASSES[class])), picture: None },
    };
    (0..CLASSES.len()).flat_map(|class| wording.map(|words| text(class, words))).collect()
}

/// Thumbnails of the classes' folders, or titles where there is no folder.
fn pictures(folder: Option<&str>) -> Result<Vec<Item>, Box<dyn Error>> {
    let folders = folder.map(sorted_paths).transpose()?.unwrap_or_default();
    let files = folders.iter().map(sorted_paths).collect::<Result<Vec<_>, _>>()?;
    let mut items = Vec::new();
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..PICTURES_PER_CLASS {
            let file = files.get(class).and_then(|inside| inside.get(number));
            let picture = match file {
                Some(file) => {
                    Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(fs::read(file)?)))
                }
                None => None,
            };
            let text = Some(format!("{name} {}", number + 1));
            items.push(Item { class, card: Card { text, picture } });
        }
    }
    Ok(items)
}

fn sorted_paths(folder: impl AsRef<Path>) -> std::io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder.as_ref())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn facts(name: &str, note: &str) -> ModelFacts {
    ModelFacts {
        name: name.to_owned(),
        fingerprint: hash_bytes(name.as_bytes()),
        note: note.to_owned(),
    }
}

fn data(texts: &[Item], pictures: &[Item]) -> Vec<Fact> {
    [
        ("Texts", texts.len().to_string()),
        ("Pictures", pictures.len().to_string()),
        ("Classes", CLASSES.len().to_string()),
        ("Relevant", "items of the same class".to_owned()),
    ]
    .map(|(name, value)| Fact { name: name.to_owned(), value })
    .to_vec()
}

/// A run of 900 steps: warm-up, cosine decay, a loss that falls with noise.
fn curve() -> TrainingCurve {
    let mut rng = SEED.stream("curve").rng();
    let mut curve = TrainingCurve::default();
    for step in 1..=900_u16 {
        let done = f32::from(step) / 900.0;
        let noise: f32 = rng.random_range(-0.12..0.12);
        curve.steps.push(u64::from(step));
        curve.loss.push(0.9 + 2.6 * (-4.0 * done).exp() + noise);
        let decay = 0.5 * (1.0 + (std::f32::consts::PI * done).cos());
        curve.learning_rate.push(1e-4 * decay.min(20.0 * done));
        if step % 150 == 0 {
            for (name, top) in
                [("text_to_image/recall@10", 0.83), ("image_to_text/recall@10", 0.78)]
            {
                let value = top - 0.35 * f64::from(-3.0 * done).exp();
                curve.evaluations.push(EvaluationPoint {
                    step: u64::from(step),
                    name: name.to_owned(),
                    value,
                });
            }
        }
    }
    curve
}
