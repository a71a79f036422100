//! What is told and measured while a model trains.

use std::{io::Write, path::Path};

use anyhow::Result;
use conjoin_core::Progress;
use conjoin_eval::EvaluationPoint;
use conjoin_model::{ImageTower, TextTower};
use conjoin_train::{Observer, Reject, StepLog};
use fs_err::File;

use crate::{console::Console, measures::Measures};

/// Tells the progress and measures now and then.
pub(crate) struct Watcher<'a> {
    console: &'a Console,
    /// The stage's name, where there are several.
    stage: &'a str,
    steps: u64,
    measures: &'a Measures,
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
    pub(crate) fn new(
        console: &'a Console,
        (stage, steps): (&'a str, u64),
        measures: &'a Measures,
    ) -> Self {
        Self { console, stage, steps, measures, file: None }
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
}

/// What a step tells, on two lines: the losses; then how it went.
fn note(log: &StepLog) -> String {
    let each = log.tasks.iter().map(|(name, task)| format!("{name} {:.3}", task.loss));
    let tasks = match log.tasks.len() {
        0 | 1 => String::new(),
        _ => format!(" ({})", each.collect::<Vec<_>>().join(", ")),
    };
    let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let memory = log.peak_memory_bytes;
    let memory = memory.map_or_else(String::new, |n| format!(", {:.2} GiB", gibibytes(n)));
    format!(
        "loss {:.3}{tasks}\nrate {:.2e}, gradients {:.3}, {:.0} pairs/s, waited {:.0} %{memory}",
        log.loss,
        log.lr,
        log.grad_norm,
        log.pairs_per_second,
        100.0 * log.wait_share,
    )
}

impl Observer<TextTower, ImageTower> for Watcher<'_> {
    fn on_step(&mut self, log: &StepLog) {
        self.console.update(self.stage, log.step, Some(self.steps), &note(log));
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
    ) -> Result<Option<f64>, Box<dyn std::error::Error + Send + Sync>> {
        let figures = self.measures.figures((text, image), true)?;
        self.console.say(&format!("step {step}: {}", figures.summary()));
        for (name, value) in figures.judging() {
            let point = EvaluationPoint { step, name: name.clone(), value: *value };
            if let Some(file) = &mut self.file {
                writeln!(file, "{}", serde_json::to_string(&point)?)?;
            }
        }
        Ok(figures.judgement())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use conjoin_train::TaskLog;

    use super::*;

    #[test]
    fn a_step_is_told_in_two_lines() {
        let task = |loss| {
            let scalars = BTreeMap::new();
            TaskLog { loss, accuracy: 0.5, scalars, pairs: 8, rejected: 0 }
        };
        let mut log = StepLog {
            step: 7,
            loss: 2.5,
            lr: 0.00012,
            grad_norm: 0.75,
            tasks: [("pairs".to_owned(), task(2.0))].into(),
            pairs: 16,
            rejected: 0,
            pairs_per_second: 120.4,
            seconds: 0.1,
            wait_share: 0.031,
            peak_memory_bytes: Some(3 << 29),
        };
        let second = "rate 1.20e-4, gradients 0.750, 120 pairs/s, waited 3 %";
        assert_eq!(note(&log), format!("loss 2.500\n{second}, 1.50 GiB"));
        log.tasks.insert("views".to_owned(), task(1.0));
        log.peak_memory_bytes = None;
        assert_eq!(note(&log), format!("loss 2.500 (pairs 2.000, views 1.000)\n{second}"));
    }
}
