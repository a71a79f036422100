//! The project's chores: `cargo xtask check | ci | tidy | golden CASE | fuzz | bench peers`.
//!
//! In:  a checkout. Out: text for a person, exit code 0 (fine), 1 (a check said no), 2 (could not).
//! Not here: anything the product needs. Std only, so that it builds in seconds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is a chore's job")]

mod bench;
mod check;
mod files;
mod fuzz;
mod golden;
mod run;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  check [CRATE…]            format, lints, tidy, then the tests of the named crates; without
                            names, of the crates with uncommitted changes (all if none has)
  ci                        what CI runs, in CI's order
  tidy                      the rules of the repository that no compiler checks
  golden CASE [--replace] [-- ARGS]
                            makes testdata/parity/CASE anew with its make.py (ARGS go to it),
                            shows the numeric differences, replaces the files only if asked to
  fuzz --seconds N [--seed S]
                            changes model folders at random for N seconds of each kind of change
  bench peers [--with-candle] [ARGS]
                            measures against other programs; ARGS go to benches/peers/run.py
";

/// Whether the chore is content with the checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything is as it should be.
    Fine,
    /// A check said no, and has told why.
    No,
}

/// What stopped a chore, as text for the person who started it.
pub(crate) type Stopped = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(1),
        Err(stopped) => {
            eprintln!("error: {stopped}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(args: &[String]) -> Result<Verdict, Stopped> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["check", crates @ ..] => check::check(crates),
        ["ci"] => check::ci(),
        ["tidy"] => tidy::tidy(),
        ["golden", case, rest @ ..] => golden::golden(case, rest),
        ["fuzz", rest @ ..] => fuzz::fuzz(rest),
        ["bench", rest @ ..] => bench::bench(rest),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(Verdict::Fine)
        }
        [unknown, ..] => Err(format!("no chore `{unknown}`\n\n{HELP}").into()),
    }
}

/// The chores' names, for the check that documents name only what exists.
pub(crate) const COMMANDS: [&str; 6] = ["check", "ci", "tidy", "golden", "fuzz", "bench"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_chore() {
        assert!(COMMANDS.iter().all(|name| HELP.contains(&format!("  {name} "))), "{HELP}");
    }

    #[test]
    fn an_unknown_chore_stops() {
        let stopped = dispatch(&["chekc".to_owned()]).unwrap_err().to_string();
        assert!(stopped.starts_with("no chore `chekc`"), "{stopped}");
    }
}
