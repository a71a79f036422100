//! TensorBoard event files: curves of a run while it goes on.
//!
//! In:  numbers by tag and step. Out: `events.out.tfevents.SECONDS.conjoin.PID.0` in a folder.
//! Not here: what is worth a curve (`trainer`), the run's own record (`journal`), pictures, histograms.
//! Source: TensorFlow's `record_writer.h`, `event.proto`, `summary.proto`. Parity:
//!      `testdata/parity/tensorboard`.
//!
//! A file is never continued: each start of a run begins a new one, since the last may end in half a
//! record. Its first records tell TensorBoard to forget what earlier files say of steps that are done again.

mod message;
mod record;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use fs_err as fs;

use self::{message::Event, record::framed};

/// What the names of event files start with; TensorBoard reads them in the order of their names.
const PREFIX: &str = "events.out.tfevents.";

/// Writes the event file of one start of a run.
#[derive(Debug)]
pub struct EventWriter {
    file: fs::File,
}

impl EventWriter {
    /// Begins a new event file in `folder`, which is made, for a run that has done `n_steps`. What earlier
    /// files there say of later steps is not shown any more.
    ///
    /// # Errors
    /// When the folder cannot be read or the file not be written.
    pub fn open(folder: &Path, n_steps: u64, now: SystemTime) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let earlier = newest_second(folder)?;
        let mut writer = Self { file: fs::File::create_new(file_in(folder, earlier, now))? };
        let wall_time = seconds(now);
        // After an earlier file, or the steps before would be cut from nothing.
        let step = if n_steps == 0 && earlier.is_none() { 0 } else { n_steps + 1 };
        writer.put(&Event::version(wall_time, step))?;
        if step > 0 {
            writer.put(&Event::start(wall_time, step))?;
        }
        Ok(writer)
    }

    /// Writes the numbers of a step as one record, which a reader sees at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, step: u64, now: SystemTime, scalars: &[(&str, f32)]) -> io::Result<()> {
        self.put(&Event::scalars(seconds(now), step, scalars))
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn put(&mut self, event: &Event) -> io::Result<()> {
        self.file.write_all(&framed(event.bytes()))
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A name that comes after those of all earlier files, whatever the clock says.
fn file_in(folder: &Path, earlier: Option<u64>, now: SystemTime) -> PathBuf {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let second = earlier.map_or(now, |earlier| now.max(earlier.saturating_add(1)));
    folder.join(format!("{PREFIX}{second:010}.conjoin.{}.0", std::process::id()))
}

/// The latest second in the names of a folder's event files.
fn newest_second(folder: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let second = name.strip_prefix(PREFIX).and_then(|rest| rest.split('.').next());
        newest = newest.max(second.and_then(|second| second.parse().ok()));
    }
    Ok(newest)
}

#[cfg(test)]
mod tests;
