//! Other programs, started in the checkout and shown before they run.

use std::{path::Path, process::Command};

use crate::{Stopped, Verdict, files};

/// Runs a program, its output passed through; a failing one is a `No`.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<Verdict, Stopped> {
    run_with(program, args, &files::root(), &[])
}

/// The same, in another folder and with environment variables.
pub(crate) fn run_with(
    program: &str,
    args: &[&str],
    folder: &Path,
    variables: &[(&str, &str)],
) -> Result<Verdict, Stopped> {
    eprintln!("$ {program} {}", args.join(" "));
    let status = Command::new(program)
        .args(args)
        .current_dir(folder)
        .envs(variables.iter().copied())
        .status()
        .map_err(|e| format!("cannot start `{program}`: {e}"))?;
    Ok(if status.success() { Verdict::Fine } else { Verdict::No })
}

/// What a program writes to stdout; it must succeed.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String, Stopped> {
    let output = Command::new(program)
        .args(args)
        .current_dir(files::root())
        .output()
        .map_err(|e| format!("cannot start `{program}`: {e}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{program} {}` failed: {}", args.join(" "), told.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
