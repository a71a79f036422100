//! The training state: everything a run needs to go on as if it had never stopped.
//!
//! In:  parameters, Adam moments, the number of steps done, the configuration.
//! Out: an artefact `states/step-N` in the run's folder; format: `docs/format/train_state.md`.
//! Not here: the model's own checkpoint (`conjoin-model`).
//!
//! Saving copies the numbers into a buffer; another thread writes, hashes and publishes it while
//! training goes on. The older state is removed only when the newer one is whole.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use conjoin_core::{Artifact, ArtifactWriter, Manifest, Parameter, hash_bytes};
use fs_err as fs;
use pulp::bytemuck;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::{
    adamw::AdamW,
    average::Average,
    config::TrainConfig,
    error::{StateError, StateErrorKind},
    plateau::EvaluationPoint,
};

/// The artefact's format.
pub const STATE_FORMAT: &str = "train_state";
/// The newest version of the format this build reads, and the one it writes.
pub const STATE_VERSION: u32 = 2;

const TENSORS_FILE: &str = "state.safetensors";
const FACTS_FILE: &str = "state.json";
const FOLDER: &str = "states";
/// Settings that never affect the result; they may change between stop and resume.
const FREE_SETTINGS: [&str; 3] = ["checkpoint", "evaluate_every", "prefetch"];
/// The same within the tables of the towers.
const FREE_OF_TOWERS: &str = "checkpoint_layers";

const _: () = assert!(cfg!(target_endian = "little"), "tensor files are little-endian");

/// One list of parameters with its optimiser.
pub(crate) struct Part<'a> {
    pub(crate) parameters: &'a [Parameter],
    pub(crate) optimizer: &'a AdamW,
    /// Their running average, updated in every step.
    pub(crate) average: Option<&'a Average>,
}

/// The same, to be filled from a state.
pub(crate) struct PartMut<'a> {
    pub(crate) parameters: &'a mut [Parameter],
    pub(crate) optimizer: &'a mut AdamW,
    pub(crate) average: Option<&'a mut Average>,
}

/// What a state must fit: all that decides the run besides the numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// The configuration, without what does not affect the result.
    config: serde_json::Value,
    /// The data's fingerprint.
    data: String,
    /// SHA-256 over the frozen parameters.
    frozen: String,
}

/// How far a run has come.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    pub(crate) n_steps: u64,
    pub(crate) points: Vec<EvaluationPoint>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    n_steps: u64,
    /// What the observer measured so far.
    points: Vec<EvaluationPoint>,
    identity: Identity,
}

/// SHA-256 over the parameters that training leaves alone.
pub(crate) fn hash_frozen(parameters: &[Parameter]) -> String {
    let frozen = parameters.iter().filter(|p| p.frozen);
    let hashes: String = frozen
        .map(|p| format!("{} {}\n", p.name, hash_bytes(bytemuck::cast_slice(&p.value))))
        .collect();
    hash_bytes(hashes.as_bytes())
}

impl Identity {
    /// Of a configuration, its data, and hashes of what stays as it is.
    pub(crate) fn new(config: &TrainConfig, data: &str, frozen: &[&str]) -> Self {
        let mut config = serde_json::to_value(config).expect("a configuration is plain data");
        if let Some(settings) = config.as_object_mut() {
            settings.retain(|key, _| !FREE_SETTINGS.contains(&key.as_str()));
            for tower in ["text", "image"] {
                let settings = settings.get_mut(tower).and_then(|tower| tower.as_object_mut());
                settings.and_then(|settings| settings.remove(FREE_OF_TOWERS));
            }
        }
        Self { config, data: data.to_owned(), frozen: hash_bytes(frozen.concat().as_bytes()) }
    }

    fn check(&self, state: &Self) -> Result<(), StateErrorKind> {
        if let Some((key, state, configured)) = difference("", &state.config, &self.config) {
            return Err(StateErrorKind::Setting { key, state, configured });
        }
        if state.data != self.data {
            let (state, given) = (state.data.clone(), self.data.clone());
            return Err(StateErrorKind::Data { state, given });
        }
        if state.frozen == self.frozen { Ok(()) } else { Err(StateErrorKind::Frozen) }
    }
}

/// The first setting in which two configurations differ: its path and both values.
fn difference(
    path: &str,
    a: &serde_json::Value,
    b: &serde_json::Value,
) -> Option<(String, String, String)> {
    let (Some(a_map), Some(b_map)) = (a.as_object(), b.as_object()) else {
        return (a != b).then(|| (path.to_owned(), a.to_string(), b.to_string()));
    };
    let absent = serde_json::Value::Null;
    let mut keys: Vec<&String> = a_map.keys().chain(b_map.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().find_map(|key| {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let (a, b) = (a_map.get(key).unwrap_or(&absent), b_map.get(key).unwrap_or(&absent));
        difference(&path, a, b)
    })
}

/// The newest state in a run's folder, if there is one.
///
/// # Errors
/// When the folder cannot be read.
pub fn latest_state(run: &Path) -> Result<Option<PathBuf>, StateError> {
    let fail = |e: std::io::Error| StateError { path: run.to_owned(), kind: e.into() };
    Ok(states(run).map_err(fail)?.pop())
}

/// All states of a run, oldest first.
fn states(run: &Path) -> std::io::Result<Vec<PathBuf>> {
    let folder = run.join(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut states = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("step-") {
            states.push(entry.path());
        }
    }
    states.sort();
    Ok(states)
}

/// A state in memory, ready to be written.
pub(crate) struct Snapshot {
    n_steps: u64,
    seed: u64,
    tensors: Vec<u8>,
    facts: Vec<u8>,
    config_hash: String,
}

impl Snapshot {
    pub(crate) fn take(
        progress: &Progress,
        seed: u64,
        identity: &Identity,
        parts: &[Part<'_>],
    ) -> Self {
        let tensors = parts.iter().flat_map(tensors_of).map(|(name, shape, values)| {
            let bytes = bytemuck::cast_slice(values);
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes)
                .expect("a parameter's shape fits its values");
            (name, view)
        });
        let tensors = safetensors::serialize(tensors, None).expect("names and shapes are plain");
        let config_hash = hash_bytes(identity.config.to_string().as_bytes());
        let Progress { n_steps, points } = progress.clone();
        let facts = Facts { n_steps, points, identity: identity.clone() };
        let facts = serde_json::to_vec_pretty(&facts).expect("facts are plain data");
        Self { n_steps, seed, tensors, facts, config_hash }
    }

    /// Writes it as the newest state of a run and removes the older ones.
    fn write(&self, run: &Path) -> Result<PathBuf, StateErrorKind> {
        let folder = run.join(FOLDER);
        fs::create_dir_all(&folder)?;
        remove_unfinished(&folder)?;
        let target = folder.join(format!("step-{:012}", self.n_steps));
        self.write_to(&target)?;
        for old in states(run)?.into_iter().filter(|state| *state < target) {
            fs::remove_dir_all(old)?;
        }
        Ok(target)
    }

    /// Writes it as the best of a run, in the place of the one before.
    pub(crate) fn write_best(&self, run: &Path) -> Result<(), StateError> {
        let path = best_state(run);
        self.write_to(&path).map_err(|kind| StateError { path, kind })
    }

    fn write_to(&self, target: &Path) -> Result<(), StateErrorKind> {
        let writer = ArtifactWriter::create(target, STATE_FORMAT)?;
        fs::write(writer.file(TENSORS_FILE), &self.tensors)?;
        fs::write(writer.file(FACTS_FILE), &self.facts)?;
        let mut manifest = Manifest::new(STATE_FORMAT, STATE_VERSION);
        manifest.config_hash.clone_from(&self.config_hash);
        manifest.seed = Some(self.seed);
        manifest.facts.insert("n_steps".to_owned(), self.n_steps.into());
        writer.commit(manifest)?;
        Ok(())
    }
}

/// Where the state with the best evaluation of a run is.
pub(crate) fn best_state(run: &Path) -> PathBuf {
    run.join("best")
}

/// Removes what a process that was killed had begun to write.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(".step-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Name, shape and values of every tensor of a part, in a fixed order.
fn tensors_of<'a>(part: &Part<'a>) -> Vec<(String, &'a [usize], &'a [f32])> {
    let mut tensors: Vec<(String, &[usize], &[f32])> = Vec::new();
    let all = part.parameters.iter().zip(&part.optimizer.moments);
    for (parameter, moments) in all.filter(|(_, moments)| moments.are_kept()) {
        let Parameter { name, shape, value, .. } = parameter;
        tensors.push((format!("value/{name}"), shape, value));
        tensors.push((format!("mean/{name}"), shape, &moments.mean));
        tensors.push((format!("square/{name}"), shape, &moments.square));
    }
    let averages = part.average.iter().flat_map(|average| average.tensors());
    for average in averages.filter(|average| !average.value.is_empty()) {
        tensors.push((format!("average/{}", average.name), &average.shape, &average.value));
    }
    tensors
}

/// Writes states on a thread of its own, one at a time.
pub(crate) struct StateWriter {
    run: PathBuf,
    writing: Option<JoinHandle<Result<PathBuf, StateErrorKind>>>,
}

impl StateWriter {
    pub(crate) fn new(run: &Path) -> Self {
        Self { run: run.to_owned(), writing: None }
    }

    /// Starts writing; waits only while the previous state is not yet whole.
    ///
    /// The snapshot is taken after that wait, so that at most one is in memory.
    pub(crate) fn begin(&mut self, take: impl FnOnce() -> Snapshot) -> Result<(), StateError> {
        self.finish()?;
        let snapshot = take();
        let run = self.run.clone();
        self.writing = Some(thread::spawn(move || snapshot.write(&run)));
        Ok(())
    }

    /// Waits until the last state is whole.
    pub(crate) fn finish(&mut self) -> Result<(), StateError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let written = writing.join().unwrap_or(Err(StateErrorKind::Panicked));
        written.map(drop).map_err(|kind| StateError { path: self.run.clone(), kind })
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        // An error here follows another one that is already on its way.
        let _ = self.finish();
    }
}

/// Fills the parts from a state and tells how far the run had come. On an error nothing has changed.
pub(crate) fn load(
    path: &Path,
    identity: &Identity,
    parts: &mut [PartMut<'_>],
) -> Result<Progress, StateError> {
    read(path, identity, parts).map_err(|kind| StateError { path: path.to_owned(), kind })
}

fn read(
    path: &Path,
    identity: &Identity,
    parts: &mut [PartMut<'_>],
) -> Result<Progress, StateErrorKind> {
    let artifact = Artifact::open(path, STATE_FORMAT, STATE_VERSION)?;
    artifact.verify()?;
    let facts: Facts = serde_json::from_slice(&fs::read(artifact.file(FACTS_FILE))?)
        .map_err(|source| StateErrorKind::Facts { file: FACTS_FILE, source })?;
    identity.check(&facts.identity)?;
    let bytes = fs::read(artifact.file(TENSORS_FILE))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| StateErrorKind::Tensors {
        file: TENSORS_FILE,
        reason: error.to_string(),
    })?;
    check_tensors(&tensors, parts)?;
    for part in parts {
        fill(part, &tensors, facts.n_steps)?;
    }
    Ok(Progress { n_steps: facts.n_steps, points: facts.points })
}

fn check_tensors(tensors: &SafeTensors<'_>, parts: &[PartMut<'_>]) -> Result<(), StateErrorKind> {
    let mut expected = BTreeMap::new();
    for part in parts {
        let average = part.average.as_deref();
        let part = Part { parameters: part.parameters, optimizer: part.optimizer, average };
        expected.extend(tensors_of(&part).into_iter().map(|(name, shape, _)| (name, shape)));
    }
    for (name, shape) in &expected {
        let found = tensor(tensors, name)?;
        if found.dtype() != Dtype::F32 || found.shape() != *shape {
            return Err(StateErrorKind::Shape {
                name: name.clone(),
                found: format!("{} {:?}", found.dtype(), found.shape()),
                expected: format!("F32 {shape:?}"),
            });
        }
    }
    if tensors.len() != expected.len() {
        return Err(StateErrorKind::Foreign { found: tensors.len(), expected: expected.len() });
    }
    Ok(())
}

fn fill(
    part: &mut PartMut<'_>,
    tensors: &SafeTensors<'_>,
    n_steps: u64,
) -> Result<(), StateErrorKind> {
    part.optimizer.n_steps = n_steps;
    let all = part.parameters.iter_mut().zip(part.optimizer.moments.iter_mut());
    for (parameter, moments) in all.filter(|(_, moments)| moments.are_kept()) {
        let name = &parameter.name;
        let targets = [
            ("value", &mut *parameter.value),
            ("mean", moments.mean.as_mut_slice()),
            ("square", moments.square.as_mut_slice()),
        ];
        for (kind, target) in targets {
            copy(&tensor(tensors, &format!("{kind}/{name}"))?, target);
        }
    }
    if let Some(average) = &mut part.average {
        average.set_n_updates(n_steps);
        for average in average.tensors_mut().iter_mut().filter(|a| !a.value.is_empty()) {
            copy(&tensor(tensors, &format!("average/{}", average.name))?, &mut average.value);
        }
    }
    Ok(())
}

fn copy(from: &TensorView<'_>, to: &mut [f32]) {
    for (value, bytes) in to.iter_mut().zip(from.data().as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

fn tensor<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, StateErrorKind> {
    tensors.tensor(name).map_err(|_| StateErrorKind::Missing { name: name.to_owned() })
}

#[cfg(test)]
mod tests;
