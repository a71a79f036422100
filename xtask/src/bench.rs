//! `bench peers`: builds conjoin's workers in release mode and lets them run against other programs.
//!
//! In:  Python from `$PYTHON` with the packages of `benches/peers/requirements.txt`; without that variable an
//!      environment of its own is made in the build folder. The weights and data of `$CONJOIN_SHARED`.
//! Out: tables on stdout; models, inputs and results in the build folder, in `peers`.
//! Not here: what is measured and how (`benches/peers/run.py`).

use std::path::{Path, PathBuf};

use crate::{Stopped, Verdict, files, run};

/// Whether the worker of candle, whose crates take minutes to build, is built too.
const WITH_CANDLE: &str = "--with-candle";

/// Runs `bench peers ARGS`; what `run.py` does not know it refuses.
pub(crate) fn bench(args: &[&str]) -> Result<Verdict, Stopped> {
    let ["peers", args @ ..] = args else {
        return Err("bench needs `peers`, and may have arguments of `benches/peers/run.py`".into());
    };
    let built = build_folder();
    let cache = built.join("peers");
    let examples = built.join("release/examples");
    let candle = built.join("candle/release/conjoin-bench-candle");
    build()?;
    let mut words = vec!["run.py", "--cache", text(&cache)?, "--bin", text(&examples)?];
    if args.contains(&WITH_CANDLE) {
        build_candle(&built.join("candle"))?;
        words.extend(["--candle", text(&candle)?]);
    }
    words.extend(args.iter().filter(|arg| **arg != WITH_CANDLE));
    let python = python(&cache)?;
    let shared = files::shared();
    let variables = [("CONJOIN_SHARED", shared.as_str()), ("PYTHONDONTWRITEBYTECODE", "1")];
    run::run_with(&python, &words, &files::root().join("benches/peers"), &variables)
}

/// Where Cargo puts what it builds.
fn build_folder() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| PathBuf::from("target"));
    files::root().join(folder)
}

fn build() -> Result<(), Stopped> {
    let workers = [("conjoin-model", "speed"), ("conjoin-train", "step_speed")];
    for (package, example) in workers {
        must("cargo", &["build", "--release", "-p", package, "--example", example])?;
    }
    Ok(())
}

fn build_candle(folder: &Path) -> Result<(), Stopped> {
    let manifest = files::root().join("benches/peers/candle/Cargo.toml");
    let place = ["--manifest-path", text(&manifest)?, "--target-dir", text(folder)?];
    must("cargo", &[&["build", "--release", "--locked"][..], &place].concat())
}

/// `$PYTHON`, else the interpreter of an environment that is made when it is not there.
fn python(cache: &Path) -> Result<String, Stopped> {
    if let Ok(python) = std::env::var("PYTHON") {
        return Ok(python);
    }
    let environment = cache.join("venv");
    let python = environment.join("bin/python");
    if !python.is_file() {
        must("python3", &["-m", "venv", text(&environment)?])?;
        let list = files::root().join("benches/peers/requirements.txt");
        must(text(&python)?, &["-m", "pip", "install", "-q", "-r", text(&list)?])?;
    }
    Ok(text(&python)?.to_owned())
}

fn must(program: &str, args: &[&str]) -> Result<(), Stopped> {
    match run::run(program, args)? {
        Verdict::Fine => Ok(()),
        Verdict::No => Err(format!("`{program}` failed").into()),
    }
}

fn text(path: &Path) -> Result<&str, Stopped> {
    path.to_str().ok_or_else(|| format!("`{}` is not UTF-8", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_other_benchmarks() {
        for args in [&[][..], &["friends"]] {
            let stopped = bench(args).unwrap_err().to_string();
            assert!(stopped.starts_with("bench needs `peers`"), "{stopped}");
        }
    }
}
