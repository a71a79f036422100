//! Models named `hf:OWNER/NAME`, from a local server that speaks the hub's routes.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::{
    hub_server::{COMMIT, FakeHub, REPO, Rules},
    support::{Ran, beside, command, ended, names, read_json, recipe, trained},
};

/// A hub that has the small trained model, and an empty cache.
struct Bench {
    server: FakeHub,
    dir: TempDir,
    data: String,
}

fn bench() -> Bench {
    let (dir, data) = beside("data");
    let model = trained().join("run/model");
    let files: Vec<(String, Vec<u8>)> = names(&model)
        .into_iter()
        .map(|name| (name.clone(), fs_err::read(model.join(name)).unwrap()))
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    let rules = Rules::new(&files);
    Bench { server: FakeHub::start(rules), dir, data }
}

impl Bench {
    /// Runs a command line whose home and hub are these.
    #[track_caller]
    fn run(&self, line: &str, vars: &[(&str, &str)]) -> Ran {
        let mut command = command(self.dir.path(), &line.split(' ').collect::<Vec<_>>());
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.dir.path().join("hf"));
        command.env("HF_ENDPOINT", self.server.endpoint()).env("NO_PROXY", "127.0.0.1,localhost");
        ended(command.envs(vars.iter().copied()).output().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[test]
fn a_model_of_the_hub_gives_the_vectors_of_its_folder() {
    let bench = bench();
    fs_err::write(bench.path("queries.txt"), "red apple\nmilk\n").unwrap();
    let line = format!("embed queries.txt --model hf:{REPO} --out far");
    let said = bench.run(&line, &[]).expect(0).err;
    let files = names(&trained().join("run/model")).len();
    assert!(said.contains(&format!("hf:{REPO} (MB): {files} files in `")), "{said}");
    let near = trained().join("run/model").display().to_string();
    bench.run(&format!("embed queries.txt --model {near} --out near"), &[]).expect(0);
    let vectors = |name: &str| fs_err::read(bench.path(name).join("text.npy")).unwrap();
    assert!(vectors("far") == vectors("near"));

    let line = format!("embed queries.txt --model hf:{REPO} --out again");
    bench.run(&line, &[("HF_HUB_OFFLINE", "1")]).expect(0);
    assert!(vectors("again") == vectors("near"));
}

#[test]
fn an_index_remembers_the_commit_of_its_model() {
    let bench = bench();
    let line = format!("index {} --model hf:{REPO} --out index", bench.data);
    bench.run(&line, &[]).expect(0);
    let manifest = read_json(bench.path("index/manifest.json"));
    assert_eq!(manifest["facts"]["model_path"], format!("hf:{REPO}@{COMMIT}"));
    bench.run("search index apple", &[("HF_HUB_OFFLINE", "1")]).expect(0);
}

#[test]
fn a_recipe_starts_from_a_model_of_the_hub_and_keeps_its_commit() {
    let bench = bench();
    let text = recipe(2).replace("\"data\"", &format!("\"{}\"", bench.data));
    let start = text.lines().find(|line| line.starts_with("start.towers")).unwrap();
    let text = text.replace(start, &format!("start.checkpoint = \"hf:{REPO}\""));
    fs_err::write(bench.path("recipe.toml"), text).unwrap();
    let checked = bench.run("train recipe.toml --check", &[]).expect(0).out;
    assert!(checked.contains(&format!("checkpoint = \"hf:{REPO}\"")), "{checked}");
    assert_eq!(bench.server.requests(), [], "a check needs no network");
    bench.run("train recipe.toml", &[]).expect(0);
    let kept = fs_err::read_to_string(bench.path("run/train/recipe.toml")).unwrap();
    assert!(kept.contains(&format!("checkpoint = \"hf:{REPO}@{COMMIT}\"")), "{kept}");
}

#[test]
fn what_cannot_be_fetched_is_told() {
    let bench = bench();
    fs_err::write(bench.path("q.txt"), "apple\n").unwrap();
    let err = bench.run("embed q.txt --model hf:bert --out v", &[]).expect(2).err;
    assert!(err.contains("`bert` is no repository's name, expected `hf:OWNER/NAME`"), "{err}");
    let err = bench.run("embed q.txt --model hf:acme/none --out v", &[]).expect(2).err;
    assert!(
        err.starts_with("error: cannot fetch model `hf:acme/none`\n  cause: the hub says 401:")
    );
    let line = format!("embed q.txt --model hf:{REPO} --out v");
    let err = bench.run(&line, &[("HF_HUB_OFFLINE", "1")]).expect(2).err;
    assert!(err.contains("no connection is allowed (`HF_HUB_OFFLINE`)"), "{err}");
    bench.server.change(|rules| rules.gate = Some("hf_key".to_owned()));
    let err = bench.run(&line, &[]).expect(2).err;
    assert!(err.contains("cause: the model is gated: accept its terms at http://"), "{err}");
    assert!(!bench.path("v").exists());
    bench.run(&line, &[("HF_TOKEN", "hf_key")]).expect(0);
}
