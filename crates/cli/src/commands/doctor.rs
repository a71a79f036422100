//! `conjoin doctor`: what was read of a model, why, and whether it is right.
//!
//! Out: the layout, every rule with the key it follows from, keys nothing asked for, limits, the licence,
//! errors against stored references if the folder holds some, and the speed on this machine.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use conjoin_core::{Embedder, Parameter, Reranker, Stop, Task, Tower};
use conjoin_input::{ImageLimits, Pixels};
use conjoin_model::{
    EncoderSpec, ImageSpec, Model, ModelCalibration, ModelErrorKind, ModelPrecision, NormPlacement,
    Precision, Ranker, SAMPLE_SIZE, Sample,
    families::{Kind, Plan, Reading, colbert::LatePlan, cross_encoder::PairPlan, model_card},
    reference::{Reference, StageError},
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    args::{Doctor, PrecisionChoice},
    console::{Console, print},
    machine, models, precision,
};

pub(crate) fn run(args: &Doctor, console: &Console, stop: &Stop) -> Result<Outcome> {
    let folder = models::find(&args.model, console, stop)?.folder;
    let begun = Instant::now();
    let (mut subject, reading) = open(&folder)?;
    let loaded = begun.elapsed();
    let stages = match Reference::find(&folder)? {
        None => None,
        Some(reference) => Some(subject.compare(&reference)?),
    };
    stop.check()?;
    let calibration = subject.set_precision(args, (console, stop)).context("`--precision`")?;
    if let Some(path) = &args.save_precision {
        let found = calibration.as_ref().map_or_else(|| subject.precision(), |c| c.precision());
        precision::save_plan(path, subject.fingerprint(), found)?;
        console.say(&format!("precision: written to `{}`", path.display()));
    }
    let speed = if args.no_speed { Vec::new() } else { subject.speed(stop)? };
    let report =
        Report { subject: &subject, folder: &folder, reading, stages, speed, loaded, calibration };
    if args.json {
        print(&report.json()?.to_string())?;
    } else {
        print(&report.text()?)?;
    }
    Ok(if report.agrees() { Outcome::Done } else { Outcome::Refused })
}

/// What is looked at.
enum Subject {
    Embedder(Box<Model>),
    Ranker(Ranker),
}

fn open(folder: &Path) -> Result<(Subject, Option<Reading>)> {
    if Model::is_checkpoint(folder) {
        return Ok((Subject::Embedder(Box::new(Model::open(folder)?)), None));
    }
    let at = |kind: ModelErrorKind| kind.at(folder.display().to_string());
    Ok(match Kind::of(folder)? {
        Kind::Embedder => {
            let plan = Plan::read(folder)?;
            let reading = plan.reading.clone();
            (Subject::Embedder(Box::new(plan.build().map_err(at)?)), Some(reading))
        }
        Kind::CrossEncoder => {
            let plan = PairPlan::read(folder)?;
            let reading = plan.reading.clone();
            let model = Ranker::CrossEncoder(Box::new(plan.build().map_err(at)?));
            (Subject::Ranker(model), Some(reading))
        }
        Kind::LateInteraction => {
            let plan = LatePlan::read(folder)?;
            let reading = plan.reading.clone();
            let model = Ranker::LateInteraction(Box::new(plan.build().map_err(at)?));
            (Subject::Ranker(model), Some(reading))
        }
    })
}

impl Subject {
    /// Measures the precisions on the user's inputs, if there are some, and sets the one asked for.
    fn set_precision(
        &mut self,
        args: &Doctor,
        with: (&Console, &Stop),
    ) -> Result<Option<ModelCalibration>> {
        let sample = sample(args)?;
        let calibration = match (&mut *self, sample) {
            (_, None) if args.precision.precision == PrecisionChoice::Auto => {
                bail!("`--precision auto` needs inputs to measure on: --texts FILE or --images DIR")
            }
            (_, None) => None,
            (Self::Embedder(model), Some(sample)) => Some(model.calibrate(&sample, with.1)?),
            (Self::Ranker(model), Some(sample)) => {
                let texts: Vec<&str> = sample.texts.iter().map(String::as_str).collect();
                let (query, documents) = texts.split_first().context("`--texts` has no query")?;
                Some(model.calibrate(query, documents, with.1)?)
            }
        };
        match args.precision.fixed(|| self.fingerprint().to_owned(), |p| self.usual(p))? {
            None => {}
            Some(precision) => match self {
                Self::Embedder(model) => model.set_precision(&precision)?,
                Self::Ranker(model) => model.set_precision(&precision.text.unwrap_or_default())?,
            },
        }
        Ok(calibration)
    }

    fn compare(&self, reference: &Reference) -> Result<Vec<StageError>> {
        Ok(match self {
            Self::Embedder(model) => reference.compare(model)?,
            Self::Ranker(Ranker::CrossEncoder(model)) => reference.compare_pairs(model)?,
            Self::Ranker(Ranker::LateInteraction(model)) => reference.compare_late(model)?,
        })
    }

    fn parameters(&self) -> usize {
        let count = |all: &[Parameter]| all.iter().map(|p| p.value.len()).sum::<usize>();
        match self {
            Self::Embedder(model) => {
                let text = model.parts().text.as_ref().map_or(0, |t| count(t.parameters()));
                text + model.parts().image.as_ref().map_or(0, |t| count(t.parameters()))
            }
            Self::Ranker(model) => count(model.tower().parameters()),
        }
    }

    fn precision(&self) -> ModelPrecision {
        match self {
            Self::Embedder(model) => model.precision(),
            Self::Ranker(model) => {
                ModelPrecision { text: Some(model.tower().precision()), image: None }
            }
        }
    }

    fn usual(&self, precision: Precision) -> ModelPrecision {
        match self {
            Self::Embedder(model) => model.usual_precision(precision),
            Self::Ranker(_) => precision.into(),
        }
    }

    fn max_tokens(&self) -> Option<usize> {
        match self {
            Self::Embedder(model) => model.max_tokens(),
            Self::Ranker(model) => Some(model.max_tokens()),
        }
    }

    fn fingerprint(&self) -> &str {
        match self {
            Self::Embedder(model) => model.fingerprint(),
            Self::Ranker(model) => model.fingerprint(),
        }
    }

    fn licence(&self, folder: &Path) -> Result<Option<String>> {
        match self {
            Self::Embedder(model) => Ok(model.spec().card.licence.clone()),
            Self::Ranker(_) => {
                let licence = model_card::licence(folder);
                Ok(licence.map_err(|kind| kind.at(folder.display().to_string()))?)
            }
        }
    }

    fn speed(&self, stop: &Stop) -> Result<Vec<Speed>> {
        match self {
            Self::Embedder(model) => speed(model, stop),
            Self::Ranker(model) => ranking_speed(model, stop),
        }
    }
}

/// The inputs that precisions are measured on.
fn sample(args: &Doctor) -> Result<Option<Sample>> {
    if args.texts.is_none() && args.images.is_none() {
        return Ok(None);
    }
    let mut sample = Sample::default();
    if let Some(path) = &args.texts {
        let content = fs_err::read_to_string(path)?;
        let lines = content.lines().filter(|line| !line.trim().is_empty());
        sample.texts = lines.take(SAMPLE_SIZE + 1).map(str::to_owned).collect();
    }
    if let Some(folder) = &args.images {
        let mut files: Vec<PathBuf> =
            fs_err::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.retain(|path| path.is_file());
        files.sort();
        let files = files.iter().take(SAMPLE_SIZE);
        sample.images = files.map(fs_err::read).collect::<std::io::Result<_>>()?;
    }
    Ok(Some(sample))
}

/// How fast one kind of work is here.
struct Speed {
    what: String,
    /// Inputs per pass.
    batch: usize,
    /// The median of the passes.
    pass: Duration,
}

impl Speed {
    fn per_second(&self) -> f64 {
        self.batch as f64 / self.pass.as_secs_f64()
    }
}

struct Report<'a> {
    subject: &'a Subject,
    folder: &'a Path,
    reading: Option<Reading>,
    stages: Option<Vec<StageError>>,
    speed: Vec<Speed>,
    loaded: Duration,
    calibration: Option<ModelCalibration>,
}

impl Report<'_> {
    fn agrees(&self) -> bool {
        self.stages.iter().flatten().all(StageError::agrees)
    }

    fn family(&self) -> &str {
        self.reading.as_ref().map_or("conjoin checkpoint", |reading| &reading.family)
    }

    fn json(&self) -> Result<Value> {
        let speed = |s: &Speed| {
            json!({"what": s.what, "batch": s.batch, "milliseconds": s.pass.as_secs_f64() * 1e3,
                "per_second": s.per_second()})
        };
        let licence = self.subject.licence(self.folder)?;
        let mut report = json!({
            "family": self.family(),
            "reading": self.reading,
            "parameters": self.subject.parameters(),
            "max_tokens": self.subject.max_tokens(),
            "licence": licence,
            "licence_warning": licence_warning(licence.as_deref()),
            "fingerprint": self.subject.fingerprint(),
            "references": self.stages,
            "agrees": self.stages.as_ref().map(|_| self.agrees()),
            "load_seconds": self.loaded.as_secs_f64(),
            "machine": machine::description(),
            "precision": self.subject.precision(),
            "precisions": self.calibration,
            "speed": self.speed.iter().map(speed).collect::<Vec<_>>(),
        });
        if let Subject::Embedder(model) = self.subject {
            let image = model.spec().contract.image.as_ref();
            report["modalities"] = json!(model.modalities());
            report["width"] = json!(model.width());
            report["widths"] = json!(model.widths());
            report["image_size"] = json!(image.map(|image| image.size));
            report["tasks"] = json!(model.tasks());
        }
        Ok(report)
    }

    fn text(&self) -> Result<String> {
        let mut out = String::new();
        self.facts(&mut out)?;
        if let Some(reading) = &self.reading {
            rules(&mut out, reading)?;
        }
        match &self.stages {
            None => {
                writeln!(out, "\nreferences\n  none beside the model: nothing to compare with")?
            }
            Some(stages) => references(&mut out, stages, self.agrees())?,
        }
        if let Some(calibration) = &self.calibration {
            out += &precision::table(calibration)?;
        }
        writeln!(out, "\nspeed here ({})", machine::description())?;
        writeln!(out, "  opened in {:.2} s", self.loaded.as_secs_f64())?;
        for speed in &self.speed {
            let (ms, rate) = (speed.pass.as_secs_f64() * 1e3, speed.per_second());
            writeln!(
                out,
                "  {}, {} at once: {ms:.1} ms, {rate:.0} a second",
                speed.what, speed.batch
            )?;
        }
        out.truncate(out.trim_end().len());
        Ok(out)
    }

    fn facts(&self, out: &mut String) -> Result<()> {
        let name = self.folder.file_name().map(|name| name.to_string_lossy().into_owned());
        writeln!(out, "{}: {}", name.unwrap_or_default(), self.family())?;
        writeln!(out, "  {:.1} M parameters", self.subject.parameters() as f64 / 1e6)?;
        match self.subject {
            Subject::Embedder(model) => embedder_facts(out, model)?,
            Subject::Ranker(Ranker::CrossEncoder(model)) => {
                writeln!(out, "  text tower: {}", shape(model.tower().spec()))?;
                writeln!(out, "  scores of pairs, up to {} tokens together", model.max_tokens())?;
            }
            Subject::Ranker(Ranker::LateInteraction(model)) => {
                let rule = model.rule();
                writeln!(out, "  text tower: {}", shape(model.tower().spec()))?;
                writeln!(
                    out,
                    "  a vector of width {} per token; queries of up to {} tokens, documents of up to {}",
                    model.width(),
                    rule.query.max_tokens,
                    rule.document.max_tokens
                )?;
            }
        }
        let licence = self.subject.licence(self.folder)?;
        writeln!(out, "  licence: {}", licence.as_deref().unwrap_or("not told by the folder"))?;
        if let Some(warning) = licence_warning(licence.as_deref()) {
            writeln!(out, "  WARNING: {warning}")?;
        }
        Ok(())
    }
}

fn embedder_facts(out: &mut String, model: &Model) -> Result<()> {
    let spec = model.spec();
    let mut widths = model.widths();
    let shorter: Vec<String> =
        widths.drain(..widths.len() - 1).map(|width| width.to_string()).collect();
    let cut = match shorter.is_empty() {
        true => String::new(),
        false => format!(", or cut to {}", shorter.join(", ")),
    };
    writeln!(out, "  vectors of width {}{cut}", model.width())?;
    if let Some(text) = &spec.text {
        writeln!(out, "  text tower: {}", shape(text))?;
    }
    match &spec.image {
        Some(ImageSpec::Transformer(image)) => writeln!(out, "  picture tower: {}", shape(image))?,
        Some(ImageSpec::MobileNet(_)) => writeln!(out, "  picture tower: MobileNet v1")?,
        None => {}
    }
    if let Some(text) = &spec.contract.text {
        writeln!(out, "  texts: up to {} tokens, cut there unless --long-text", text.max_tokens)?;
        for (task, prompt) in &text.prompts {
            let task = if task.is_empty() { "plain" } else { task };
            writeln!(out, "    --task {task}: {prompt:?} before the text")?;
        }
    }
    if let Some(image) = &spec.contract.image {
        writeln!(
            out,
            "  pictures: {0} x {0} pixels, {1:?}, {2:?}",
            image.size, image.resize, image.interpolation
        )?;
        let limits = ImageLimits::default();
        let (pixels, bytes) = (limits.max_pixels / 1_000_000, limits.max_bytes >> 20);
        writeln!(out, "    files of up to {pixels} million pixels and {bytes} MiB")?;
    }
    Ok(())
}

/// An encoder in one line.
fn shape(spec: &EncoderSpec) -> String {
    let norm = match spec.norm.placement {
        NormPlacement::Pre => "pre-norm",
        NormPlacement::Post => "post-norm",
    };
    let gated = if spec.mlp.gated { "gated " } else { "" };
    format!(
        "{} layers of width {}, {} heads, {norm}, {gated}{:?} MLP of width {}",
        spec.layers, spec.width, spec.attention.heads, spec.mlp.activation, spec.mlp.width
    )
}

fn rules(out: &mut String, reading: &Reading) -> Result<()> {
    writeln!(out, "\nrules, and what they follow from")?;
    for note in &reading.notes {
        writeln!(out, "  {}: {}\n      {}", note.what, note.choice, note.because)?;
    }
    if !reading.unread.is_empty() {
        writeln!(out, "\nkeys that nothing asked for (they may be news)")?;
        for key in &reading.unread {
            writeln!(out, "  {key}")?;
        }
    }
    Ok(())
}

fn references(out: &mut String, stages: &[StageError], agrees: bool) -> Result<()> {
    let verdict = if agrees { "equal" } else { "NOT EQUAL: this model is read wrongly" };
    writeln!(out, "\nreferences: {verdict}")?;
    for stage in stages {
        let executor = format!("{:?}", stage.executor).to_lowercase();
        let cosine = stage.min_cosine.map_or(String::new(), |c| format!(", cosine {c:.7}"));
        let mark = if stage.agrees() { "  " } else { "! " };
        writeln!(
            out,
            "{mark}{:<18} {executor:<10} max error {:.1e}{cosine}",
            stage.stage, stage.max_error
        )?;
    }
    Ok(())
}

/// Words in a licence's name that mean it may not be used for business.
const NON_COMMERCIAL: [&str; 5] =
    ["-nc", "noncommercial", "non-commercial", "research", "academic"];

fn licence_warning(licence: Option<&str>) -> Option<String> {
    let Some(licence) = licence else {
        return Some(
            "no licence is told; ask whoever made the model before you use it for business"
                .to_owned(),
        );
    };
    let name = licence.to_lowercase();
    let non_commercial = NON_COMMERCIAL.iter().any(|word| name.contains(word));
    non_commercial.then(|| {
        format!("`{licence}` forbids commercial use of the model and of what is made with it")
    })
}

/// Passes per figure; their median is told.
const PASSES: usize = 5;

fn speed(model: &Model, stop: &Stop) -> Result<Vec<Speed>> {
    let mut all = Vec::new();
    let text =
        "the quick brown fox jumps over the lazy dog and runs off into the dark green forest";
    for batch in [1, 16] {
        if model.parts().text.is_some() {
            let texts = vec![text; batch];
            let tokens = model.tokenize(text)?.ids.len();
            let what = format!("texts of {tokens} tokens");
            all.push(time(what, batch, stop, || {
                model.embed_texts(&texts, &Task::Plain).map(drop)
            })?);
        }
        if let (Some(tower), Some(contract)) = (&model.parts().image, &model.spec().contract.image)
        {
            let size = contract.size;
            let picture = Pixels::new(size, size, vec![127; size * size * 3])?;
            let pictures = vec![&picture; batch];
            let what = format!("decoded pictures of {size} x {size} pixels");
            all.push(time(what, batch, stop, || tower.embed(&pictures).map(drop))?);
        }
    }
    Ok(all)
}

/// Scores of documents for a query.
fn ranking_speed(model: &dyn Reranker, stop: &Stop) -> Result<Vec<Speed>> {
    let document = "the quick brown fox jumps over the lazy dog and runs off into the forest";
    let mut all = Vec::new();
    for batch in [1, 16] {
        let documents = vec![document; batch];
        let work = || model.rerank("where does the fox run", &documents).map(drop);
        all.push(time("documents of a line".to_owned(), batch, stop, work)?);
    }
    Ok(all)
}

fn time<E: std::error::Error + Send + Sync + 'static>(
    what: String,
    batch: usize,
    stop: &Stop,
    work: impl Fn() -> std::result::Result<(), E>,
) -> Result<Speed> {
    work()?;
    let mut passes = Vec::with_capacity(PASSES);
    for _ in 0..PASSES {
        stop.check()?;
        let begun = Instant::now();
        work()?;
        passes.push(begun.elapsed());
    }
    passes.sort();
    Ok(Speed { what, batch, pass: passes[PASSES / 2] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_of_licences_that_forbid_business() {
        assert!(licence_warning(Some("cc-by-nc-4.0")).unwrap().contains("forbids commercial use"));
        assert!(licence_warning(None).unwrap().contains("no licence is told"));
        assert_eq!(licence_warning(Some("apache-2.0")), None);
        assert_eq!(licence_warning(Some("mit")), None);
    }
}
