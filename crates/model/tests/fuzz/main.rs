//! Model folders that nobody should trust: every file of every recorded checkpoint, changed at random.
//!
//! A changed folder opens or is refused with a reason: no panic, no word on standard error, no more memory
//! than a few times its files, no endless work. What opens gives vectors or a reason.
//! The short runs are tests; `cargo xtask fuzz --seconds N` goes on for as long as wanted.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test tells and fails by panicking"
)]

mod folders;
mod memory;
mod mutate;

use std::{
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{Mutex, Once, PoisonError},
    time::{Duration, Instant},
};

use conjoin_core::{Embedder, Modality, Reranker, Seed, Task};
use conjoin_model::{Model, ModelError, Ranker, open_reranker};
use rand::Rng;

use crate::{
    folders::{Base, Kind, bases},
    memory::Watch,
    mutate::{Mutation, change_bytes, change_header, change_json},
};

/// Memory is counted for the whole process, so cases run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// What a folder may cost beside eight times its files: threads, tables, an error's text.
const MEMORY: usize = 64 << 20;
/// Far more than any tiny model takes, on a busy machine.
const TIME: Duration = Duration::from_secs(20);

/// What panics said aloud; a caught one says nothing.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Begins to listen, before the tokeniser's own hook is there.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            TOLD.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
            before(panic);
        }));
    });
}

/// Runs `changes` on folders in turn until there were `n` of them or the time is over.
fn fuzz(what: &str, n: usize, change: impl Fn(&Base, &mut dyn rand::RngCore) -> Option<Mutation>) {
    let seed = std::env::var("CONJOIN_FUZZ_SEED").map_or(0, |seed| seed.parse().unwrap());
    let seconds = std::env::var("CONJOIN_FUZZ_SECONDS").map(|s| s.parse().unwrap());
    listen();
    let alone = ALONE.lock();
    let bases = bases();
    let end = seconds.map(|s| Instant::now() + Duration::from_secs(s)).ok();
    let mut rng = Seed(seed).stream(what).rng();
    let (mut tried, mut opened, mut embedded) = (0, 0, 0);
    for at in 0.. {
        if end.map_or(at >= n, |end| Instant::now() >= end) {
            break;
        }
        let base: &Base = &bases[rng.random_range(0..bases.len())];
        let Some(mutation) = change(base, &mut rng) else { continue };
        tried += 1;
        let outcome = base.with(&mutation, || check(base, &mutation));
        opened += usize::from(outcome >= Outcome::Opened);
        embedded += usize::from(outcome == Outcome::Embedded);
    }
    assert_eq!(*TOLD.lock().unwrap(), Vec::<String>::new());
    drop(alone);
    eprintln!("{what}, seed {seed}: {tried} changed folders, {opened} opened, {embedded} embedded");
    assert!(tried > n / 2 && opened < tried, "{what}: {opened} of {tried} opened");
}

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Outcome {
    Refused,
    Opened,
    Embedded,
}

/// A model of any kind.
enum Opened {
    Embedder(Box<Model>),
    Reranker(Ranker),
}

fn open(base: &Base) -> Result<Opened, ModelError> {
    match base.kind {
        Kind::Embedder => Model::open(base.folder()).map(Box::new).map(Opened::Embedder),
        Kind::Reranker => open_reranker(base.folder()).map(Opened::Reranker),
    }
}

/// Opens a changed folder, and uses it if that works.
fn check(base: &Base, mutation: &Mutation) -> Outcome {
    let (watch, start) = (Watch::start(), Instant::now());
    let opened = catch_unwind(AssertUnwindSafe(|| open(base)));
    let (peak, limit) = (watch.peak(), MEMORY + 8 * base.bytes(mutation));
    assert!(peak <= limit, "{}: {peak} bytes, {limit} allowed\n{mutation}", base.name);
    let model = opened.unwrap_or_else(|_| panic!("{}: panicked\n{mutation}", base.name));
    let outcome = match model {
        Err(error) => {
            check_reason(&error, base, mutation);
            Outcome::Refused
        }
        Ok(model) => match catch_unwind(AssertUnwindSafe(|| works(&model))) {
            Err(_) => panic!("{}: panicked when used\n{mutation}", base.name),
            Ok(false) => Outcome::Opened,
            Ok(true) => Outcome::Embedded,
        },
    };
    assert!(start.elapsed() < TIME, "{}: {:?}\n{mutation}", base.name, start.elapsed());
    outcome
}

/// An error tells the file, the key or the tensor.
fn check_reason(error: &ModelError, base: &Base, mutation: &Mutation) {
    let mut told = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        told += &format!("{error}: ");
        cause = error.source();
    }
    let file = mutation.file.rsplit('/').next().unwrap();
    let named = [
        file,
        mutation.key.as_str(),
        ".json`",
        "file `",
        "tensor",
        "spec: `",
        "contract",
        "toke",
        "dimensions",
    ];
    assert!(
        named.iter().any(|word| !word.is_empty() && told.contains(word)),
        "{}: `{told}` names nothing\n{mutation}",
        base.name
    );
    assert!(told.len() < 20_000, "{}: {} bytes of error\n{mutation}", base.name, told.len());
}

/// Whether the model gives vectors; those it gives are numbers.
fn works(model: &Opened) -> bool {
    match model {
        Opened::Embedder(model) => embeds(model),
        Opened::Reranker(model) => model.rerank("Hello", &["Hello, world", ""]).is_ok(),
    }
}

fn embeds(model: &Model) -> bool {
    let finite = |vector: &[f32]| assert!(vector.iter().all(|x| x.is_finite()), "not finite");
    let mut all = true;
    if model.modalities().contains(&Modality::Text) {
        let texts = ["Hello, world", ""];
        match model.embed_texts(&texts, &Task::Plain) {
            Ok(texts) => texts.vectors.rows().for_each(finite),
            Err(_) => all = false,
        }
    }
    if model.modalities().contains(&Modality::Image) {
        let picture = folders::picture();
        match model.embed_images(&[&picture]) {
            Ok(images) => images.iter().flatten().for_each(|vector| finite(vector)),
            Err(_) => all = false,
        }
    }
    all
}

#[test]
fn changed_configurations_open_or_are_refused() {
    fuzz("configurations", 500, |base, rng| {
        let files: Vec<_> = base.jsons().filter(|file| !file.ends_with("tokenizer.json")).collect();
        let file = files.get(rng.random_range(0..files.len().max(1)))?;
        change_json(base, file, rng)
    });
}

#[test]
fn changed_tokenizers_open_or_are_refused() {
    // The library below panics on some: that is caught, and nothing is printed.
    fuzz("tokenizers", 200, |base, rng| {
        let file = base.jsons().find(|file| file.ends_with("tokenizer.json"))?;
        change_json(base, file, rng)
    });
}

#[test]
fn changed_headers_of_weights_open_or_are_refused() {
    fuzz("headers of weights", 200, |base, rng| {
        let file = base.files().find(|file| file.ends_with(".safetensors"))?;
        change_header(base, file, rng)
    });
}

#[test]
fn damaged_files_open_or_are_refused() {
    fuzz("damaged files", 200, |base, rng| {
        let files: Vec<_> = base.files().collect();
        Some(change_bytes(base, files[rng.random_range(0..files.len())], rng))
    });
}

#[test]
fn a_tokenizer_that_contradicts_itself_is_refused_without_a_word() {
    listen();
    let alone = ALONE.lock();
    let broken_map = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
    let empty_template = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}], "pair": [], "special_tokens": {}},
        "decoder": null, "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
    for document in [broken_map, empty_template, "\"", "[]", "{\"version\": \"1.0\"}"] {
        let found = conjoin_input::Tokenizer::from_json(document.as_bytes());
        assert!(found.is_err(), "{document}");
    }
    assert_eq!(*TOLD.lock().unwrap(), Vec::<String>::new());
    drop(alone);
}
