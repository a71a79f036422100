//! `train.jsonl`: one line of JSON per step.
//!
//! In:  [`StepLog`]s. Out: the file, flushed line by line; after a resume exactly the lines of the
//!      steps the state has.
//! Not here: printing.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use fs_err as fs;
use serde::{Deserialize, Serialize};

/// The journal's file name in a run's folder.
pub const JOURNAL_FILE: &str = "train.jsonl";

/// What is known of a step when it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepLog {
    /// The step, from 1.
    pub step: u64,
    /// The weighted sum of the tasks' losses before the update.
    pub loss: f64,
    /// The learning rate, before multipliers.
    pub lr: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// What is known of each task, by its name.
    pub tasks: BTreeMap<String, TaskLog>,
    /// Pairs trained on, of all tasks.
    pub pairs: usize,
    /// Pairs left out because they could not be read.
    pub rejected: usize,
    /// Pairs per second.
    pub pairs_per_second: f64,
    /// Seconds the step took, waiting included.
    pub seconds: f64,
    /// Share of that time spent waiting for data.
    pub wait_share: f64,
    /// The most memory that was resident so far, in bytes, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// What is known of a task in a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskLog {
    /// Its loss before the update, without its weight.
    pub loss: f64,
    /// How often it was right in the batch, 0 to 1; what that means is the loss's to say.
    pub accuracy: f64,
    /// The loss's own numbers, before the update (`log_scale`).
    pub scalars: BTreeMap<String, f32>,
    /// Queries trained on.
    pub pairs: usize,
    /// Rows left out because they could not be read.
    pub rejected: usize,
}

impl StepLog {
    /// The same with the fields cleared that depend on the machine.
    #[must_use]
    pub fn without_times(self) -> Self {
        let (pairs_per_second, seconds, wait_share, peak_memory_bytes) = (0.0, 0.0, 0.0, None);
        Self { pairs_per_second, seconds, wait_share, peak_memory_bytes, ..self }
    }
}

/// The open journal.
pub(crate) struct Journal {
    path: PathBuf,
    file: fs::File,
}

impl Journal {
    /// Opens the journal of a run that has done `n_steps` and cuts off what came after them: lines
    /// of steps that were lost with the process, and a line that was torn.
    pub(crate) fn open(folder: &Path, n_steps: u64) -> std::io::Result<Self> {
        let path = path(folder);
        let kept: Vec<String> = if n_steps == 0 {
            Vec::new()
        } else {
            read(&path)?.into_iter().filter(|line| step_of(line) <= n_steps).collect()
        };
        let staged = path.with_extension("jsonl.tmp");
        let mut file = fs::File::create(&staged)?;
        for line in kept {
            writeln!(file, "{line}")?;
        }
        fs::rename(&staged, &path)?;
        Ok(Self { path, file })
    }

    /// The losses of all steps so far.
    pub(crate) fn losses(&self) -> std::io::Result<Vec<f64>> {
        let logs = read(&self.path)?.into_iter();
        Ok(logs
            .filter_map(|line| Some(serde_json::from_str::<StepLog>(&line).ok()?.loss))
            .collect())
    }

    pub(crate) fn write(&mut self, log: &StepLog) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(log)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(JOURNAL_FILE)
}

fn read(path: &Path) -> std::io::Result<Vec<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The step of a line; a line that is none belongs to no step that was kept.
fn step_of(line: &str) -> u64 {
    serde_json::from_str::<StepLog>(line).map_or(u64::MAX, |log| log.step)
}
