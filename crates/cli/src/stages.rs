//! Stages that are done once: their artefact, and a stamp that tells what made it.
//!
//! A stage runs again only when its settings or its inputs changed, or its artefact is gone; so a
//! command that was interrupted goes on from the last finished stage.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use conjoin_core::{Stop, hash_bytes};
use conjoin_eval::Timing;
use serde::{Deserialize, Serialize};

use crate::{
    console::{Console, clock},
    machine,
};

const STAMPS: &str = "stages.json";

/// What is remembered of a finished stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    /// SHA-256 of the stage's settings and inputs.
    pub key: String,
    /// How long it took.
    pub seconds: f64,
    /// The most memory the process held meanwhile.
    pub peak_memory_bytes: Option<u64>,
}

/// The stages of one output folder.
pub(crate) struct Stages<'a> {
    out: PathBuf,
    console: &'a Console,
    stop: &'a Stop,
    stamps: BTreeMap<String, Stamp>,
    order: Vec<String>,
}

impl<'a> Stages<'a> {
    pub(crate) fn open(out: &Path, console: &'a Console, stop: &'a Stop) -> Result<Self> {
        fs_err::create_dir_all(out)?;
        let file = out.join(STAMPS);
        let stamps = if file.exists() {
            // A damaged record only means that stages run again.
            serde_json::from_slice(&fs_err::read(&file)?).unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        Ok(Self { out: out.to_owned(), console, stop, stamps, order: Vec::new() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// Runs stage `name`, whose artefact is the folder of that name, unless it is done. `key` is all
    /// that decides its result.
    pub(crate) fn run(
        &mut self,
        name: &str,
        key: &impl Serialize,
        work: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        self.stop.check()?;
        let key = hash_bytes(&serde_json::to_vec(key)?);
        let artefact = self.path(name);
        self.order.push(name.to_owned());
        if artefact.exists() && self.stamps.get(name).is_some_and(|stamp| stamp.key == key) {
            self.console.say(&format!("{name}: done before, kept"));
            return Ok(());
        }
        machine::reset_peak_memory();
        let begun = Instant::now();
        work(&artefact).with_context(|| format!("stage `{name}`"))?;
        let seconds = begun.elapsed().as_secs_f64();
        let peak_memory_bytes = machine::peak_memory_bytes();
        self.console.say(&format!("{name}: done in {}", clock(seconds)));
        self.stamps.insert(name.to_owned(), Stamp { key, seconds, peak_memory_bytes });
        self.save()
    }

    /// How long the stages of this command took, also those that were done before.
    pub(crate) fn timings(&self) -> Vec<Timing> {
        let stamps = self.order.iter().filter_map(|name| Some((name, self.stamps.get(name)?)));
        stamps
            .map(|(name, stamp)| Timing { name: name.clone(), seconds: stamp.seconds, items: None })
            .collect()
    }

    /// The largest peak of the stages.
    pub(crate) fn peak_memory_bytes(&self) -> Option<u64> {
        self.order.iter().filter_map(|name| self.stamps.get(name)?.peak_memory_bytes).max()
    }

    /// A line per stage: time and peak memory.
    pub(crate) fn summary(&self) -> String {
        let line = |name: &String| {
            let stamp = self.stamps.get(name)?;
            let memory = stamp
                .peak_memory_bytes
                .map_or_else(String::new, |bytes| format!(", {} MB at most", bytes >> 20));
            Some(format!("  {name:<10} {}{memory}", clock(stamp.seconds)))
        };
        self.order.iter().filter_map(line).collect::<Vec<_>>().join("\n")
    }

    fn save(&self) -> Result<()> {
        let file = self.out.join(STAMPS);
        let fresh = self.out.join(".stages.json.tmp");
        fs_err::write(&fresh, serde_json::to_vec_pretty(&self.stamps)?)?;
        Ok(fs_err::rename(fresh, file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_runs_again_only_when_something_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (console, stop) = (Console::new(true), Stop::default());
        let runs = std::cell::Cell::new(0);
        let run = |key: &str| {
            let mut stages = Stages::open(dir.path(), &console, &stop).unwrap();
            let work = |path: &Path| {
                runs.set(runs.get() + 1);
                Ok(fs_err::write(path, "x")?)
            };
            stages.run("one", &key, work).unwrap();
        };
        run("a");
        run("a");
        assert_eq!(runs.get(), 1);
        run("b");
        assert_eq!(runs.get(), 2, "another setting");
        fs_err::remove_file(dir.path().join("one")).unwrap();
        run("b");
        assert_eq!(runs.get(), 3, "the artefact is gone");
        stop.request();
        let mut stages = Stages::open(dir.path(), &console, &stop).unwrap();
        assert!(stages.run("two", &0, |_| Ok(())).is_err());
    }
}
