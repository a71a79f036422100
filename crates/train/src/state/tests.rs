//! Save → load is identity; foreign and damaged states are refused and change nothing.

use conjoin_core::{Gradients, Seed};

use super::*;
use crate::{
    adamw::AdamWConfig,
    testing::{SmallTower, config, random},
};

fn optimizer(parameters: &[Parameter]) -> AdamW {
    let AdamWConfig { betas, eps, .. } = config().optimizer;
    let config = AdamWConfig { betas, eps, weight_decay: 0.1, lr_multipliers: vec![] };
    AdamW::new(config, parameters)
}

/// A list of parameters some steps into training.
fn trained(seed: u64) -> (Vec<Parameter>, AdamW) {
    use conjoin_core::Tower as _;
    let mut tower = SmallTower::new("t", 4, 3, Seed(1));
    let mut adamw = optimizer(tower.parameters());
    for step in 0..3 {
        let mut gradients = Gradients::zeros(tower.parameters());
        for gradient in gradients.iter_mut() {
            gradient.copy_from_slice(&random(gradient.len(), Seed(seed).at(step)));
        }
        adamw.step(tower.parameters_mut(), &gradients, 0.1, 1.0);
    }
    (tower.parameters().to_vec(), adamw)
}

fn identity(parameters: &[Parameter]) -> Identity {
    Identity::new(&config(), "data", &[&hash_frozen(parameters)])
}

fn save(run: &Path, n_steps: u64, parameters: &[Parameter], optimizer: &AdamW) -> PathBuf {
    let progress = Progress { n_steps, points: Vec::new() };
    let part = Part { parameters, optimizer, average: None };
    Snapshot::take(&progress, 7, &identity(parameters), &[part]).write(run).unwrap()
}

fn try_load(
    path: &Path,
    identity: &Identity,
    parameters: &mut [Parameter],
    optimizer: &mut AdamW,
) -> Result<u64, StateError> {
    load(path, identity, &mut [PartMut { parameters, optimizer, average: None }])
        .map(|progress| progress.n_steps)
}

#[track_caller]
fn check_refused(path: &Path, identity: &Identity, parameters: &[Parameter], expected: &str) {
    let (mut into, mut adamw) = (parameters.to_vec(), optimizer(parameters));
    let error = try_load(path, identity, &mut into, &mut adamw).unwrap_err();
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains(expected), "{text}");
    assert_eq!((into, adamw), (parameters.to_vec(), optimizer(parameters)), "nothing changed");
}

#[test]
fn save_then_load_is_identity() {
    let run = tempfile::tempdir().unwrap();
    let (parameters, adamw) = trained(1);
    let path = save(run.path(), 3, &parameters, &adamw);
    let (mut into, mut fresh) = (trained(2).0, optimizer(&parameters));
    let n_steps = try_load(&path, &identity(&parameters), &mut into, &mut fresh).unwrap();
    assert_eq!((n_steps, into, fresh), (3, parameters, adamw));
}

/// Adapters move such a matrix: it has a gradient, but this optimiser never had it.
#[test]
fn what_the_optimiser_does_not_move_is_not_in_the_state() {
    let run = tempfile::tempdir().unwrap();
    let (mut parameters, _) = trained(1);
    parameters[0].frozen = true;
    let adamw = optimizer(&parameters);
    parameters[0].frozen = false;
    let path = save(run.path(), 3, &parameters, &adamw);
    let (mut into, mut fresh) = (trained(2).0, adamw.clone());
    let other = into[0].clone();
    assert_ne!((&other, &into[1]), (&parameters[0], &parameters[1]));
    try_load(&path, &identity(&parameters), &mut into, &mut fresh).unwrap();
    assert_eq!((&into[0], &into[1]), (&other, &parameters[1]));
}

#[test]
fn only_the_newest_state_stays() {
    let run = tempfile::tempdir().unwrap();
    let (parameters, adamw) = trained(1);
    assert_eq!(latest_state(run.path()).unwrap(), None);
    save(run.path(), 9, &parameters, &adamw);
    let newest = save(run.path(), 10, &parameters, &adamw);
    assert_eq!(latest_state(run.path()).unwrap(), Some(newest));
    assert_eq!(states(run.path()).unwrap().len(), 1);
}

#[test]
fn a_writer_tells_what_went_wrong_on_its_thread() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::write(&run, "a file where the folder should be").unwrap();
    let (parameters, optimizer) = trained(1);
    let part = || Part { parameters: &parameters, optimizer: &optimizer, average: None };
    let mut writer = StateWriter::new(&run);
    writer
        .begin(|| Snapshot::take(&Progress::default(), 7, &identity(&parameters), &[part()]))
        .unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error.kind, StateErrorKind::Io(_)), "{error}");
    writer.finish().unwrap();
}

#[test]
fn refuses_a_foreign_state() {
    let run = tempfile::tempdir().unwrap();
    let (parameters, adamw) = trained(1);
    let path = save(run.path(), 3, &parameters, &adamw);

    let mut other = config();
    other.optimizer.betas.1 = 0.5;
    let identity_of = |config| Identity::new(config, "data", &[&hash_frozen(&parameters)]);
    let expected = "`optimizer.betas` was [0.9,0.98] when the run began and is [0.9,0.5] now";
    check_refused(&path, &identity_of(&other), &parameters, expected);

    let other = Identity::new(&config(), "other data", &[&hash_frozen(&parameters)]);
    check_refused(&path, &other, &parameters, "the run read the data data, this is other data");

    let mut other = parameters.clone();
    other[2].value[0] += 1.0;
    check_refused(&path, &identity(&other), &other, "the frozen parameters are not those");

    let mut other = parameters.clone();
    other[0].shape = vec![12];
    let expected = "tensor `mean/t.weight` is F32 [3, 4], the model has F32 [12]";
    check_refused(&path, &identity(&other), &other, expected);

    let mut other = parameters.clone();
    other[1].name = "t.other".to_owned();
    check_refused(&path, &identity(&other), &other, "tensor `mean/t.other` is missing");

    let fewer: Vec<Parameter> = vec![parameters[0].clone(), parameters[2].clone()];
    let expected = "the state has 6 tensors, this model and configuration have 3";
    check_refused(&path, &identity(&fewer), &fewer, expected);
}

#[test]
fn cadence_may_change_between_stop_and_resume() {
    let mut other = config();
    other.checkpoint.every_seconds = Some(60);
    other.prefetch.threads = 7;
    other.evaluate_every = Some(3);
    let parameters = trained(1).0;
    assert_eq!(Identity::new(&other, "data", &[&hash_frozen(&parameters)]), identity(&parameters));
}

#[test]
fn refuses_a_damaged_state() {
    let run = tempfile::tempdir().unwrap();
    let (parameters, adamw) = trained(1);
    let path = save(run.path(), 3, &parameters, &adamw);
    let identity = identity(&parameters);
    let file = path.join(TENSORS_FILE);
    let whole = fs::read(&file).unwrap();

    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&file, flipped).unwrap();
    check_refused(&path, &identity, &parameters, "`state.safetensors` has hash");

    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    check_refused(&path, &identity, &parameters, "`state.safetensors` has hash");

    fs::remove_file(&file).unwrap();
    check_refused(&path, &identity, &parameters, "state.safetensors");
    fs::remove_dir_all(&path).unwrap();
    check_refused(&path, &identity, &parameters, "manifest.json");
}
