//! Learning, exact resume, and ends that are not happy.

use std::error::Error as _;

use super::*;
use crate::{
    config::{LossConfig, PrefetchConfig},
    draws::Mixing,
    error::TrainError,
    journal::JOURNAL_FILE,
    testing::{IMAGE_WIDTH, SmallPairs, SmallTower, config, towers},
};

/// Remembers steps; stops the run after some, fails an evaluation.
#[derive(Default)]
struct Recorder {
    logs: Vec<StepLog>,
    evaluated: Vec<u64>,
    rejected: Vec<Reject>,
    stop_after: Option<(u64, Stop)>,
    fail_at: Option<u64>,
    /// What evaluations find, by step.
    metrics: BTreeMap<u64, f64>,
}

impl Observer<SmallTower, SmallTower> for Recorder {
    fn on_step(&mut self, log: &StepLog) {
        self.logs.push(log.clone());
        if let Some((step, stop)) = &self.stop_after
            && log.step == *step
        {
            stop.request();
        }
    }

    fn on_rejects(&mut self, _step: u64, rejects: &[Reject]) {
        self.rejected.extend_from_slice(rejects);
    }

    fn evaluate(
        &mut self,
        step: u64,
        _text: &SmallTower,
        _image: &SmallTower,
    ) -> Result<Option<f64>, Box<dyn std::error::Error + Send + Sync>> {
        self.evaluated.push(step);
        if self.fail_at == Some(step) {
            return Err("no such metric".into());
        }
        Ok(self.metrics.get(&step).copied())
    }
}

type Failure = TrainError<std::convert::Infallible>;
type Towers = (SmallTower, SmallTower);

fn train(
    config: &TrainConfig,
    towers: &mut Towers,
    folder: &Path,
    observer: &mut Recorder,
) -> Result<Ended, Failure> {
    train_on(&SmallPairs::new(32), config, towers, folder, observer)
}

fn train_on(
    pairs: &SmallPairs,
    config: &TrainConfig,
    (text, image): &mut Towers,
    folder: &Path,
    observer: &mut Recorder,
) -> Result<Ended, Failure> {
    let stop = observer.stop_after.as_ref().map_or_else(Stop::default, |(_, stop)| stop.clone());
    let sources = [vec![Weighted { source: pairs, weight: 1.0 }]];
    Trainer::start(config.clone(), text, image, &sources, folder)?.run(observer, &stop)
}

fn resume(
    config: &TrainConfig,
    (text, image): &mut Towers,
    folder: &Path,
    observer: &mut Recorder,
) -> Result<Ended, Failure> {
    let pairs = SmallPairs::new(32);
    let sources = [vec![Weighted { source: &pairs, weight: 1.0 }]];
    let mut trainer = Trainer::resume(config.clone(), text, image, &sources, folder)?;
    trainer.run(observer, &Stop::default())
}

fn journal(folder: &Path) -> Vec<StepLog> {
    let text = fs_err::read_to_string(folder.join(JOURNAL_FILE)).unwrap();
    text.lines().map(|l| serde_json::from_str::<StepLog>(l).unwrap().without_times()).collect()
}

fn after(step: u64) -> Recorder {
    Recorder { stop_after: Some((step, Stop::default())), ..Recorder::default() }
}

fn unbroken() -> (Towers, Vec<StepLog>) {
    let folder = tempfile::tempdir().unwrap();
    let mut towers = towers();
    let ended = train(&config(), &mut towers, folder.path(), &mut Recorder::default()).unwrap();
    assert_eq!(ended, Ended::Done);
    (towers, journal(folder.path()))
}

#[test]
fn learns_to_match_32_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    (config.steps, config.tasks[0].batch) = (150, 16);
    let mut observer = Recorder::default();
    train(&config, &mut towers(), folder.path(), &mut observer).unwrap();
    let (first, last) = (&observer.logs[0], &observer.logs[149]);
    assert!(first.loss > 2.0, "{}", first.loss);
    let accuracy = last.tasks["pairs"].accuracy;
    assert!(last.loss < 0.3 && accuracy > 0.8, "{} {accuracy}", last.loss);
    let scale = |log: &StepLog| log.tasks["pairs"].scalars["log_scale"];
    assert!(scale(last) > scale(first), "sharper as it gets surer");
    assert!(scale(last) <= 100.0_f32.ln());
}

#[test]
fn learns_with_every_loss() {
    let scalar = |init, learned| crate::config::ScalarConfig {
        init,
        min: -20.0,
        max: 100.0_f32.ln(),
        learned,
    };
    let negatives = crate::losses::Negatives::All;
    let info_nce = |reduction| {
        let log_scale = scalar(2.6, true);
        LossConfig::InfoNce { reduction, log_scale, negatives }
    };
    let losses = [
        info_nce(crate::losses::Reduction::SymmetricSum),
        info_nce(crate::losses::Reduction::OneWay),
        LossConfig::Joint { log_scale: scalar(2.6, true) },
        LossConfig::Sigmoid { log_scale: scalar(2.3, false), bias: scalar(-2.7, true), negatives },
    ];
    for loss in losses {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config();
        config.steps = 100;
        config.tasks[0].loss = loss.clone();
        let mut observer = Recorder::default();
        train(&config, &mut towers(), folder.path(), &mut observer).unwrap();
        let mean = |logs: &[StepLog]| logs.iter().map(|l| l.loss).sum::<f64>();
        let (first, last) = (mean(&observer.logs[..8]), mean(&observer.logs[92..]));
        assert!(last < 0.5 * first, "{loss:?}: {first} → {last}");
        let fixed = observer.logs.iter().all(|l| l.tasks["pairs"].scalars["log_scale"] == 2.3);
        assert_eq!(fixed, matches!(loss, LossConfig::Sigmoid { .. }));
    }
}

#[test]
fn a_run_stopped_and_resumed_equals_an_unbroken_one() {
    let (expected, expected_journal) = unbroken();
    assert_eq!(expected_journal.len(), 20);
    let folder = tempfile::tempdir().unwrap();
    let ended = train(&config(), &mut towers(), folder.path(), &mut after(7)).unwrap();
    assert_eq!(ended, Ended::Stopped { step: 7 });
    // The towers are read anew, as after a restart of the program.
    let mut resumed = towers();
    let ended = resume(&config(), &mut resumed, folder.path(), &mut Recorder::default()).unwrap();
    assert_eq!(ended, Ended::Done);
    assert_eq!(resumed, expected);
    assert_eq!(journal(folder.path()), expected_journal);
}

#[test]
fn a_stream_stopped_and_resumed_equals_an_unbroken_one() {
    let mut streamed = SmallPairs::new(27);
    streamed.streamed = true;
    let mut other = SmallPairs::new(16);
    other.fingerprint = "others".to_owned();
    for mixing in [Mixing::Homogeneous, Mixing::Mixed] {
        let mut config = config();
        config.tasks[0].mixing = mixing;
        let sources = [vec![
            Weighted { source: &streamed, weight: 2.0 },
            Weighted { source: &other, weight: 1.0 },
        ]];
        let whole = tempfile::tempdir().unwrap();
        let (mut text, mut image) = towers();
        Trainer::start(config.clone(), &mut text, &mut image, &sources, whole.path())
            .unwrap()
            .run(&mut Recorder::default(), &Stop::default())
            .unwrap();
        for stop_after in [1, 3, 4, 11, 19] {
            let folder = tempfile::tempdir().unwrap();
            let mut observer = after(stop_after);
            let stop = observer.stop_after.as_ref().unwrap().1.clone();
            let (mut a, mut b) = towers();
            let trainer = Trainer::start(config.clone(), &mut a, &mut b, &sources, folder.path());
            trainer.unwrap().run(&mut observer, &stop).unwrap();
            let (mut a, mut b) = towers();
            let trainer = Trainer::resume(config.clone(), &mut a, &mut b, &sources, folder.path());
            trainer.unwrap().run(&mut Recorder::default(), &Stop::default()).unwrap();
            assert_eq!((&a, &b), (&text, &image), "stopped after {stop_after}");
            assert_eq!(journal(folder.path()), journal(whole.path()));
        }
    }
}

#[test]
fn a_run_that_was_killed_goes_on_from_its_last_state() {
    let (expected, expected_journal) = unbroken();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.checkpoint.every_steps = Some(5);
    config.evaluate_every = Some(5);
    // The states of a stop at step 10 with the journal of a process killed in step 13.
    train(&config, &mut towers(), folder.path(), &mut after(10)).unwrap();
    let path = folder.path().join(JOURNAL_FILE);
    let mut text = fs_err::read_to_string(&path).unwrap();
    for step in 11..=12 {
        let lost = StepLog { step, loss: 99.0, ..expected_journal[0].clone() };
        text += &format!("{}\n", serde_json::to_string(&lost).unwrap());
    }
    fs_err::write(&path, text + "{\"step\":13,\"lo").unwrap();
    let mut resumed = towers();
    let mut observer = Recorder::default();
    resume(&config, &mut resumed, folder.path(), &mut observer).unwrap();
    assert_eq!(observer.evaluated, [15, 20]);
    assert_eq!(resumed, expected);
    assert_eq!(journal(folder.path()), expected_journal);
}

#[test]
fn threads_and_cadence_do_not_change_the_result() {
    let (expected, expected_journal) = unbroken();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.prefetch = PrefetchConfig { threads: 5, ahead: 1 };
    config.checkpoint.every_steps = Some(3);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut towers = towers();
    pool.install(|| train(&config, &mut towers, folder.path(), &mut Recorder::default())).unwrap();
    assert_eq!(towers, expected);
    assert_eq!(journal(folder.path()), expected_journal);
}

#[test]
fn a_second_run_in_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error =
        resume(&config(), &mut towers(), folder.path(), &mut Recorder::default()).unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "there is no training state to resume");
    train(&config(), &mut towers(), folder.path(), &mut after(2)).unwrap();
    let error = train(&config(), &mut towers(), folder.path(), &mut after(2)).unwrap_err();
    let expected = "the folder already holds a run; resume it or choose another folder";
    assert_eq!(error.source().unwrap().to_string(), expected);
}

#[test]
fn a_number_that_is_not_finite_ends_the_run_and_the_last_state_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = SmallPairs::new(32);
    pairs.image_mut(17)[0] = f32::NAN;
    let mut config = config();
    config.checkpoint.every_steps = Some(1);
    let mut towers = towers();
    let mut observer = Recorder::default();
    let error = train_on(&pairs, &config, &mut towers, folder.path(), &mut observer).unwrap_err();
    let TrainError::NotFinite { step, what, items, .. } = &error else { panic!("{error}") };
    assert_eq!((*what, items.len()), ("the loss", 8));
    assert!(items.contains(&"pair-17".to_owned()));
    assert!(error.to_string().starts_with(&format!("step {step}: the loss is NaN; the batch is ")));
    assert!(towers.1.parameters().iter().all(|p| p.value.iter().all(|v| v.is_finite())));
    let state = state::latest_state(folder.path()).unwrap();
    let expected = (*step > 1).then(|| format!("step-{:012}", step - 1));
    let found = state.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    assert_eq!(found, expected);
    assert_eq!(observer.logs.len() as u64, step - 1);
}

#[test]
fn unreadable_pairs_cost_themselves_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = SmallPairs::new(32);
    pairs.unreadable = [3, 20].into();
    let mut observer = Recorder::default();
    train_on(&pairs, &config(), &mut towers(), folder.path(), &mut observer).unwrap();
    // 20 steps of 8 are 5 epochs of 32.
    assert_eq!(observer.rejected.len(), 10);
    assert_eq!(observer.logs.iter().map(|l| l.pairs).sum::<usize>(), 150);
    assert_eq!(observer.logs.iter().map(|l| l.rejected).sum::<usize>(), 10);
}

#[test]
fn nothing_readable_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = SmallPairs::new(32);
    pairs.unreadable = (0..32).collect();
    let mut observer = Recorder::default();
    let error =
        train_on(&pairs, &config(), &mut towers(), folder.path(), &mut observer).unwrap_err();
    let expected = "step 1: none of the 8 pairs could be read, the first because it is unreadable";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_failed_evaluation_ends_the_run_with_its_state_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.evaluate_every = Some(4);
    let mut observer = Recorder { fail_at: Some(8), ..Recorder::default() };
    let error = train(&config, &mut towers(), folder.path(), &mut observer).unwrap_err();
    assert_eq!(error.to_string(), "step 8: the observer failed");
    assert_eq!(error.source().unwrap().to_string(), "no such metric");
    assert_eq!(observer.evaluated, [4, 8]);
    let state = state::latest_state(folder.path()).unwrap().unwrap();
    assert!(state.ends_with("states/step-000000000008"));
}

#[test]
fn a_frozen_tower_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (text, image) = towers();
    let mut towers = (text, image.freeze());
    let before = towers.clone();
    train(&config(), &mut towers, folder.path(), &mut Recorder::default()).unwrap();
    assert_eq!(towers.1, before.1);
    assert_ne!(towers.0, before.0);
}

#[test]
fn refuses_towers_and_settings_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    #[track_caller]
    fn check(config: &TrainConfig, mut towers: Towers, folder: &Path, expected: &str) {
        let observer = &mut Recorder::default();
        let error = train(config, &mut towers, folder, observer).unwrap_err();
        let cause = error.source().map_or_else(String::new, ToString::to_string);
        assert_eq!(format!("{error}: {cause}"), expected);
    }
    let seed = conjoin_core::Seed(1);
    let narrow = (towers().0, SmallTower::new("image", IMAGE_WIDTH, 4, seed));
    let expected = "the text tower gives 8 dimensions, the image tower 4: ";
    check(&config(), narrow, folder.path(), expected);
    let twins = (towers().0, SmallTower::new("text", IMAGE_WIDTH, 8, seed));
    check(&config(), twins, folder.path(), "two parameters are called `text.weight`: ");
    let mut config = config();
    config.optimizer.lr_multipliers[0].prefix = "imgae.".to_owned();
    let expected = "bad training configuration: `optimizer.lr_multipliers.0.prefix` is `imgae.`, \
                    it must be the start of a parameter's name, such as `text.weight`, `text.bias`, \
                    `text.shift`, `image.weight`, `image.bias`, `image.shift`, `loss.pairs.log_scale`";
    check(&config, towers(), folder.path(), expected);
}

#[test]
fn what_a_tower_cannot_do_is_told_by_its_key() {
    #[track_caller]
    fn check(image: crate::TowerConfig, expected: &str) {
        let config = TrainConfig { image, ..config() };
        let folder = tempfile::tempdir().unwrap();
        let ended = train(&config, &mut towers(), folder.path(), &mut Recorder::default());
        let error = ended.unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), expected);
    }
    let targets = vec![crate::LoraTarget {
        prefix: "image.weight".to_owned(),
        suffix: String::new(),
        blocks: 1,
        adapted: Vec::new(),
    }];
    let lora = crate::LoraConfig { rank: 1, alpha: 1.0, targets };
    let whole = vec!["image.bias".to_owned(), "image.head.".to_owned()];
    let tower = crate::TowerConfig::default;
    check(
        crate::TowerConfig { whole: whole.clone(), lora: Some(lora), ..tower() },
        "`image.whole.1` is `image.head.`, it must be the start of a parameter's name, such as \
         `image.weight`, `image.bias`, `image.shift`",
    );
    check(
        crate::TowerConfig { whole: whole[..1].to_vec(), ..tower() },
        "`image.whole` is [\"image.bias\"], it must be left out without `lora`: all that is not frozen is \
         trained whole",
    );
    check(
        crate::TowerConfig { checkpoint_layers: true, ..tower() },
        "`image.checkpoint_layers` is true, it must be false: this tower has no layers that could be \
         computed twice",
    );
}

#[test]
fn going_on_with_a_finished_run_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    train(&config(), &mut towers(), folder.path(), &mut Recorder::default()).unwrap();
    let before = journal(folder.path());
    let mut observer = Recorder::default();
    let ended = resume(&config(), &mut towers(), folder.path(), &mut observer).unwrap();
    assert_eq!((ended, observer.logs.len()), (Ended::Done, 0));
    assert_eq!(journal(folder.path()), before);
}

/// Two tasks, hard negatives, a teacher, adapters, a running average, the best evaluation kept, a rate
/// that falls on a plateau: all that has a state.
fn everything() -> TrainConfig {
    let scalar = crate::config::ScalarConfig {
        learned: true,
        ..crate::config::ScalarConfig::clip_log_scale()
    };
    let kl =
        LossConfig::Kl { temperatures: crate::losses::Temperatures { student: 0.2, teacher: 1.0 } };
    let dims = [8, 4].map(|dim| crate::losses::MatryoshkaDim { dim, weight: 1.0 }).to_vec();
    let matryoshka = LossConfig::Matryoshka {
        dims,
        loss: Box::new(LossConfig::InfoNce {
            reduction: crate::losses::Reduction::SymmetricSum,
            negatives: crate::losses::Negatives::All,
            log_scale: scalar,
        }),
    };
    let target = |prefix: &str| crate::LoraTarget {
        prefix: prefix.to_owned(),
        suffix: "weight".to_owned(),
        blocks: 1,
        adapted: Vec::new(),
    };
    let lora = crate::LoraConfig { rank: 2, alpha: 4.0, targets: vec![target("image.")] };
    let image = crate::TowerConfig {
        lora: Some(lora),
        whole: vec!["image.bias".to_owned()],
        ..crate::TowerConfig::default()
    };
    let mut teacher = crate::testing::task("teacher", 6, kl);
    teacher.weight = 0.5;
    teacher.teacher = Some(crate::TeacherThreshold::Share(0.95));
    let mut pairs = crate::testing::task("pairs", 8, matryoshka);
    pairs.teacher = Some(crate::TeacherThreshold::Above(0.8));
    TrainConfig {
        tasks: vec![pairs, teacher],
        image,
        average: Some(crate::AverageConfig { decay: 0.9, warm_up: crate::WarmUp::Harmonic }),
        plateau: Some(crate::PlateauConfig {
            factor: 0.5,
            patience: 1,
            min_delta: 0.0,
            cooldown: 0,
            floor: 0.0,
        }),
        keep: Keep::Best,
        evaluate_every: Some(2),
        ..config()
    }
}

/// Evaluations that are best at step 8.
fn metrics() -> BTreeMap<u64, f64> {
    (1..=10_u64).map(|i| (2 * i, 1.0 - (2 * i).abs_diff(8) as f64 / 100.0)).collect()
}

fn run_everything(
    towers: &mut Towers,
    folder: &Path,
    resumes: bool,
    stop_after: Option<u64>,
) -> Result<(Ended, Vec<StepLog>), Failure> {
    let stop = Stop::default();
    let mut observer = Recorder {
        metrics: metrics(),
        stop_after: stop_after.map(|step| (step, stop.clone())),
        ..Recorder::default()
    };
    let mut of_teacher = SmallPairs::new(40);
    of_teacher.n_negatives = 2;
    of_teacher.labels = crate::losses::LabelKind::TeacherScores;
    let (mut pairs, mut more) = (SmallPairs::new(32), SmallPairs::new(24));
    (pairs.taught, more.taught) = (true, true);
    let weighted = |source, weight| Weighted { source, weight };
    let sources =
        [vec![weighted(&pairs, 2.0), weighted(&more, 1.0)], vec![weighted(&of_teacher, 1.0)]];
    let (text, image) = towers;
    let mut trainer = if resumes {
        Trainer::resume(everything(), text, image, &sources, folder)?
    } else {
        Trainer::start(everything(), text, image, &sources, folder)?
    };
    let ended = trainer.run(&mut observer, &stop)?;
    Ok((ended, journal(folder)))
}

#[test]
fn with_everything_that_has_a_state_a_resumed_run_equals_an_unbroken_one() {
    let whole = tempfile::tempdir().unwrap();
    let mut expected = towers();
    let (ended, logs) = run_everything(&mut expected, whole.path(), false, None).unwrap();
    assert_eq!((ended, logs.len()), (Ended::Done, 20));
    assert!(logs[19].lr < 0.02 * 0.1, "the rate fell on the plateau: {}", logs[19].lr);
    let fresh = towers();
    assert_ne!(expected.1.parameters()[0], fresh.1.parameters()[0], "adapters moved the matrix");
    for stop_after in [3, 9, 15] {
        let folder = tempfile::tempdir().unwrap();
        let first = run_everything(&mut towers(), folder.path(), false, Some(stop_after));
        assert_eq!(first.unwrap().0, Ended::Stopped { step: stop_after });
        let mut resumed = towers();
        let (ended, found) = run_everything(&mut resumed, folder.path(), true, None).unwrap();
        assert_eq!((ended, &found), (Ended::Done, &logs), "stopped after {stop_after}");
        assert!(values(&resumed.0) == values(&expected.0), "text, stopped after {stop_after}");
        assert!(values(&resumed.1) == values(&expected.1), "image, stopped after {stop_after}");
    }
}

fn values(tower: &SmallTower) -> Vec<Vec<f32>> {
    tower.parameters().iter().map(|p| p.value.to_vec()).collect()
}

#[test]
fn the_best_weights_are_those_of_the_best_evaluation() {
    // Of a run that ends where the other has its best evaluation, without an average.
    let run = |steps: u64, keep: Keep| {
        let folder = tempfile::tempdir().unwrap();
        let schedule = crate::schedule::ScheduleConfig {
            decay: crate::schedule::Decay::Constant,
            ..config().schedule
        };
        let config = TrainConfig { steps, keep, schedule, evaluate_every: Some(2), ..config() };
        let mut towers = towers();
        let mut observer = Recorder { metrics: metrics(), ..Recorder::default() };
        train(&config, &mut towers, folder.path(), &mut observer).unwrap();
        towers
    };
    let (best, last, until) = (run(20, Keep::Best), run(20, Keep::Last), run(8, Keep::Last));
    assert_eq!(best, until);
    assert_ne!(best, last);
}

#[test]
fn evaluations_that_do_not_get_better_end_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.evaluate_every = Some(2);
    config.early_stop = Some(crate::EarlyStopConfig { patience: 3, min_delta: 0.0 });
    let mut observer = Recorder { metrics: metrics(), ..Recorder::default() };
    let ended = train(&config, &mut towers(), folder.path(), &mut observer).unwrap();
    assert_eq!((ended, observer.logs.len()), (Ended::Done, 14), "best at 8, three more");
}

#[test]
fn gradients_of_tasks_are_summed_by_their_weights() {
    let first_norm = |tasks: Vec<crate::TaskConfig>| {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig { steps: 1, tasks, ..config() };
        let config = TrainConfig {
            schedule: crate::schedule::ScheduleConfig {
                warmup_steps: Some(0),
                ..config.schedule.clone()
            },
            ..config
        };
        let pairs = SmallPairs::new(32);
        let sources: Vec<_> =
            config.tasks.iter().map(|_| vec![Weighted { source: &pairs, weight: 1.0 }]).collect();
        let (mut text, mut image) = towers();
        let mut trainer =
            Trainer::start(config, &mut text, &mut image, &sources, folder.path()).unwrap();
        let mut observer = Recorder::default();
        trainer.run(&mut observer, &Stop::default()).unwrap();
        (observer.logs[0].loss, observer.logs[0].grad_norm)
    };
    // The scale is not learned, so that the norm is of the towers alone.
    let fixed = crate::config::ScalarConfig {
        learned: false,
        ..crate::config::ScalarConfig::clip_log_scale()
    };
    let loss = LossConfig::InfoNce {
        reduction: crate::losses::Reduction::SymmetricMean,
        negatives: crate::losses::Negatives::All,
        log_scale: fixed,
    };
    // Batches of all rows are the same whatever the task is called, up to their order and the noise.
    let task = |name: &str, weight| crate::TaskConfig {
        weight,
        ..crate::testing::task(name, 32, loss.clone())
    };
    let (one, norm) = first_norm(vec![task("a", 1.0)]);
    let (sum, sum_norm) = first_norm(vec![task("a", 0.25), task("b", 0.5)]);
    assert!((sum / one - 0.75).abs() < 0.01, "{sum} {one}");
    assert!((sum_norm / norm - 0.75).abs() < 0.02, "{sum_norm} {norm}");
}

#[test]
fn a_loss_that_needs_labels_is_refused_where_there_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.tasks[0].loss = LossConfig::Cosine {};
    let error = train(&config, &mut towers(), folder.path(), &mut Recorder::default()).unwrap_err();
    let expected = "`tasks.0.loss.kind` is for data with grades, it must be a loss that the labels \
                    of its data allow";
    assert_eq!(error.source().unwrap().to_string(), expected);
}

#[test]
fn a_teacher_is_asked_where_there_is_one() {
    let trained = |teacher: Option<crate::TeacherThreshold>, taught: bool, mixing| {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config();
        (config.tasks[0].teacher, config.tasks[0].mixing) = (teacher, mixing);
        let (mut pairs, mut more) = (SmallPairs::new(32), SmallPairs::new(24));
        (pairs.taught, more.taught) = (taught, taught);
        let (mut text, mut image) = towers();
        let weighted = |source| Weighted { source, weight: 1.0 };
        let sources = [vec![weighted(&pairs), weighted(&more)]];
        let run = Trainer::start(config, &mut text, &mut image, &sources, folder.path());
        run.and_then(|mut run| run.run(&mut NoObserver, &Stop::default()))?;
        Ok::<_, Failure>((values(&text), values(&image)))
    };
    use crate::{Mixing::*, TeacherThreshold::*};
    for mixing in [Homogeneous, Mixed] {
        let without = trained(None, false, mixing).unwrap();
        assert_eq!(trained(None, true, mixing).unwrap(), without, "not asked");
        assert_eq!(trained(Some(Above(1.1)), true, mixing).unwrap(), without, "all are negatives");
        let some = trained(Some(Above(0.5)), true, mixing).unwrap();
        assert_ne!(some, without);
        assert_ne!(trained(Some(Share(0.9)), true, mixing).unwrap(), some);
    }
    let refused = |teacher, taught, expected: &str| {
        let error = trained(Some(teacher), taught, Homogeneous).unwrap_err();
        let told = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        assert!(told.contains(expected), "{told}");
    };
    let missing =
        "`tasks.0.teacher.model` is left out, it must be a model, or data with a teacher's";
    refused(Above(0.9), false, missing);
    refused(Share(0.0), true, "`tasks.0.teacher.share` is 0, it must be a number above 0");
    refused(Margin(f32::NAN), true, "`tasks.0.teacher.margin` is NaN, it must be a number");
}

#[test]
fn a_loss_that_runs_away_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.steps = 400;
    config.clip_norm = None;
    config.schedule.peak_lr = 0.02;
    config.divergence =
        Some(crate::DivergenceConfig { factor: 1.05, window: 4, steps: 2, floor: 0.0 });
    let result = train(&config, &mut towers(), folder.path(), &mut Recorder::default());
    let Err(TrainError::Diverged { step, .. }) = result else { panic!("{result:?}") };
    assert!(step < 400, "noise alone exceeds such a narrow rule at {step}");
}
