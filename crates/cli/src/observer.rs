//! What is told and measured while a model trains.

use std::{io::Write, path::Path};

use anyhow::Result;
use conjoin_core::{Embeddings, Modality, Progress, Task, Tower};
use conjoin_data::{Dataset, Item, Split};
use conjoin_eval::{EvaluationPoint, Metric, RetrievalTask};
use conjoin_input::{ImageLimits, Pixels, Tokenizer};
use conjoin_model::{ImageTower, TextTower};
use conjoin_train::{Observer, Reject, StepLog};
use fs_err::File;
use rayon::prelude::*;

use crate::{console::Console, pairs::title};

/// The most pictures looked at during training; the report measures them all.
const MAX_WATCHED: usize = 1000;

/// Tells the progress and measures text → image on held-out pairs now and then.
pub(crate) struct Watcher<'a> {
    console: &'a Console,
    steps: u64,
    titles: Vec<Vec<u32>>,
    pixels: Vec<Pixels>,
    /// The title of each picture, as a position in `titles`.
    relevance: Vec<Vec<(u32, f32)>>,
    /// Where the measured points are written.
    file: Option<File>,
}

/// The measured points of a run, one a line.
const EVALUATIONS_FILE: &str = "evaluations.jsonl";

/// What a run measured while it trained; a line that was torn by a crash is left out.
pub(crate) fn evaluations(run: &Path) -> Result<Vec<EvaluationPoint>> {
    let path = run.join(EVALUATIONS_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs_err::read_to_string(path)?;
    Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect())
}

impl<'a> Watcher<'a> {
    /// Prepares the held-out pairs once; pictures that cannot be read are left out.
    pub(crate) fn new(
        console: &'a Console,
        steps: u64,
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        contract: &conjoin_input::InputContract,
    ) -> Self {
        let (mut titles, mut groups, mut relevance) = (Vec::new(), Vec::new(), Vec::new());
        let mut pixels: Vec<Pixels> = Vec::new();
        if let (Some(text), Some(image)) = (&contract.text, &contract.image) {
            let held_out: Vec<&Item> = dataset
                .iter_split(Split::Val)
                .filter(|i| i.image.is_some())
                .take(MAX_WATCHED)
                .collect();
            let read = |item: &&Item| {
                let bytes = dataset.image_bytes(item).ok()?;
                image.read(&bytes, &ImageLimits::default()).ok()
            };
            let prepared: Vec<Option<Pixels>> = held_out.par_iter().map(read).collect();
            for (item, prepared) in held_out.iter().zip(prepared) {
                let (Some(prepared), Some(title)) = (prepared, title(item)) else { continue };
                let known = groups.iter().position(|g| *g == item.group);
                let row = pixels.len() as u32;
                pixels.push(prepared);
                match known {
                    Some(at) => Vec::push(&mut relevance[at], (row, 1.0)),
                    None => {
                        let prompt = text.prompt(&Task::Query).unwrap_or_default();
                        let titled = text.encode(tokenizer, &format!("{prompt}{title}"));
                        let Ok(tokens) = titled else { continue };
                        groups.push(item.group.clone());
                        titles.push(tokens.ids);
                        relevance.push(vec![(row, 1.0)]);
                    }
                }
            }
        }
        Self { console, steps, titles, pixels, relevance, file: None }
    }

    /// Writes the points to the folder of a run from now on; of earlier ones those up to `n_steps`
    /// are kept, as the others are measured again.
    pub(crate) fn record(&mut self, run: &Path, n_steps: u64) -> Result<()> {
        let points = evaluations(run)?;
        let mut file = File::create(run.join(EVALUATIONS_FILE))?;
        for point in points.iter().filter(|point| point.step <= n_steps) {
            writeln!(file, "{}", serde_json::to_string(point)?)?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn measure(
        &self,
        text: &TextTower,
        image: &ImageTower,
    ) -> Result<Option<f64>, Box<dyn std::error::Error + Send + Sync>> {
        if self.titles.is_empty() {
            return Ok(None);
        }
        let queries: Embeddings = text.embed(&self.titles.iter().collect::<Vec<_>>())?;
        let corpus = image.embed(&self.pixels.iter().collect::<Vec<_>>())?;
        let task = RetrievalTask {
            name: "text_to_image".to_owned(),
            query_modality: Modality::Text,
            item_modality: Modality::Image,
            queries,
            corpus,
            ids: Vec::new(),
            relevance: self.relevance.clone(),
            exclude: Vec::new(),
        };
        Ok(Some(task.evaluate()?.value(Metric::RecallAt10)))
    }
}

impl Observer<TextTower, ImageTower> for Watcher<'_> {
    fn on_step(&mut self, log: &StepLog) {
        let note = format!(
            "loss {:.3}, {:.0} pairs/s, waited {:.0} %",
            log.loss,
            log.pairs_per_second,
            100.0 * log.wait_share
        );
        self.console.update("train", log.step, Some(self.steps), &note);
    }

    fn on_rejects(&mut self, step: u64, rejects: &[Reject]) {
        for reject in rejects {
            self.console.warn(&format!("step {step}: item `{}`: {}", reject.item, reject.reason));
        }
    }

    fn evaluate(
        &mut self,
        step: u64,
        text: &TextTower,
        image: &ImageTower,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(value) = self.measure(text, image)? {
            self.console.say(&format!(
                "step {step}: text to image recall@10 on held-out pairs {:.1} %",
                100.0 * value
            ));
            let name = "text_to_image/recall@10".to_owned();
            let point = EvaluationPoint { step, name, value };
            if let Some(file) = &mut self.file {
                writeln!(file, "{}", serde_json::to_string(&point)?)?;
            }
        }
        Ok(())
    }
}
