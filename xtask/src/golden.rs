//! `golden CASE`: makes the reference files of a parity case anew and compares them with the stored ones.
//!
//! In:  `testdata/parity/CASE/make.py`; Python from `$PYTHON` (else `python3`) with what the script needs.
//! Out: the differences, tensor by tensor; the stored files change only with `--replace`.
//! How: the script runs in a copy of `testdata` and `assets`, so it may write beside itself.

use std::path::{Path, PathBuf};

use crate::{Stopped, Verdict, files, run};

/// Folders a `make.py` may read in the checkout.
const COPIED: [&str; 2] = ["testdata", "assets"];

/// Compares, and replaces when asked to; a difference without `--replace` is a `No`.
pub(crate) fn golden(case: &str, rest: &[&str]) -> Result<Verdict, Stopped> {
    let (replace, script_args) = match rest {
        [] => (false, rest),
        ["--replace"] => (true, &rest[1..]),
        ["--", args @ ..] => (false, args),
        ["--replace", "--", args @ ..] => (true, args),
        [unknown, ..] => return Err(format!("golden takes no `{unknown}`").into()),
    };
    let stored = files::root().join("testdata/parity").join(case);
    if !stored.join("make.py").is_file() {
        return Err(format!("no `{}`", stored.join("make.py").display()).into());
    }

    let copy = Copy::make()?;
    let made = copy.0.join("testdata/parity").join(case);
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let shared = files::shared();
    let variables = [("CONJOIN_SHARED", shared.as_str()), ("PYTHONDONTWRITEBYTECODE", "1")];
    let args = [&["make.py"][..], script_args].concat();
    if run::run_with(&python, &args, &made, &variables)? == Verdict::No {
        return Err("make.py failed".into());
    }

    let compare = files::root().join("xtask/compare_golden.py");
    let verdict = run::run(&python, &[text(&compare)?, text(&stored)?, text(&made)?])?;
    if replace {
        files::copy_folder(&made, &stored)?;
        println!("replaced the files of {}", stored.display());
        return Ok(Verdict::Fine);
    }
    Ok(verdict)
}

fn text(path: &Path) -> Result<&str, Stopped> {
    path.to_str().ok_or_else(|| format!("`{}` is not UTF-8", path.display()).into())
}

/// A copy of the reference data, removed when dropped.
struct Copy(PathBuf);

impl Copy {
    fn make() -> Result<Self, Stopped> {
        let name = format!("conjoin-golden-{}", std::process::id());
        let copy = Self(std::env::temp_dir().join(name));
        for folder in COPIED {
            files::copy_folder(&files::root().join(folder), &copy.0.join(folder))?;
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(stopped) = files::remove_folder(&self.0) {
            eprintln!("warning: {stopped}");
        }
    }
}
