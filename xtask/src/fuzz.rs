//! A long run of the tests that open changed model folders.
//!
//! In:  seconds and a seed. Out: what was tried; a `No` names the folder, the change and the seed.
//! Not here: the changes themselves (`crates/model/tests/fuzz`).

use crate::{Stopped, Verdict, files, run};

pub(crate) fn fuzz(args: &[&str]) -> Result<Verdict, Stopped> {
    let (seconds, seed) = match args {
        ["--seconds", seconds] => (*seconds, "0"),
        ["--seconds", seconds, "--seed", seed] => (*seconds, *seed),
        _ => return Err("fuzz needs `--seconds N` and may have `--seed S`".into()),
    };
    for number in [seconds, seed] {
        number.parse::<u64>().map_err(|e| format!("`{number}` is no whole number: {e}"))?;
    }
    run::run_with(
        "cargo",
        &["test", "-p", "conjoin-model", "--test", "fuzz", "--", "--nocapture"],
        &files::root(),
        &[("CONJOIN_FUZZ_SECONDS", seconds), ("CONJOIN_FUZZ_SEED", seed)],
    )
}
