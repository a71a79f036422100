//! What is said where: results on standard output, everything else on standard error.

use std::{net::TcpListener, process::Stdio};

use crate::support::{beside, command, conjoin, run, trained};

const COMMANDS: [&str; 10] =
    ["demo", "adapt", "curate", "train", "eval", "embed", "index", "search", "rerank", "serve"];

#[test]
fn every_command_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    for name in COMMANDS {
        let help = conjoin(dir.path(), &[name, "--help"]).expect(0);
        assert!(help.out.contains(&format!("  conjoin {name}")), "an example: {}", help.out);
        assert_eq!(help.err, "");
        let lines: Vec<&str> =
            help.out.split("Example").next().unwrap().lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0].starts_with("--")) {
            // The explanation follows on the same line, or on the next.
            let is_explained = pair[0].contains("  ") || !pair[1].is_empty();
            assert!(is_explained, "`{}` of {name}", pair[0]);
        }
    }
    let all = conjoin(dir.path(), &["--help"]).expect(0).out;
    for name in COMMANDS {
        assert!(all.contains(&format!("  {name} ")), "{name}");
    }
}

#[test]
fn quiet_prints_results_only() {
    let (dir, model) = beside("run/model");
    let data = trained().join("data").display().to_string();
    let csv = trained().join("shop/products.csv").display().to_string();
    let check = |line: String, is_result: bool| {
        let ran = run(dir.path(), &line).expect(0);
        assert_eq!(ran.err, "", "{line}");
        assert_eq!(!ran.out.is_empty(), is_result, "{line}: {}", ran.out);
    };
    check(format!("curate {csv} --out data -q"), false);
    check(format!("curate {csv} --out data --json -q"), true);
    check(format!("index {data} --model {model} --out index -q"), false);
    check("search index milk -q".to_owned(), true);
    check(format!("embed {data} --model {model} --out vectors --quiet"), false);
    check(format!("eval --model {model} --data {data} --quiet"), true);
}

#[test]
fn what_is_no_result_goes_to_standard_error() {
    let (dir, model) = beside("run/model");
    let csv = trained().join("shop/products.csv").display().to_string();
    let curated = run(dir.path(), &format!("curate {csv} --out data")).expect(0);
    assert_eq!(curated.out, "");
    assert!(curated.err.contains("64 items of 64 rows"), "{}", curated.err);
    let indexed = run(dir.path(), &format!("index data --model {model} --out index")).expect(0);
    assert_eq!(indexed.out, "");
    let (cut, done) = indexed.err.split_once('\n').unwrap();
    assert_eq!(cut, "warning: 32 of 64 texts have more than 32 tokens and were cut there");
    assert_eq!(done, "index: 64 items in `index`\n");
}

#[test]
fn nobody_reading_is_no_error() {
    let dir = trained();
    let line = ["eval", "--model", "run/model", "--data", "data"];
    let mut child =
        command(dir, &line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !err.contains("panicked"), "{err}");

    let mut child =
        command(dir, &line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "messages nobody reads");
    assert!(String::from_utf8(output.stdout).unwrap().contains("recall@10"));
}

/// Writing to `/dev/full` fails as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_parts().0;
    let line = ["search", "index", "milk", "--json"];
    let output = command(trained(), &line).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert_eq!(err, "error: No space left on device (os error 28)\n");
}

#[test]
fn a_taken_address_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ran = run(trained(), &format!("serve index --address {address}")).expect(2);
    assert!(
        ran.err.starts_with(&format!("error: cannot listen on {address}\n  cause: ")),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("use"), "{}", ran.err);
}
