//! Recipes: those of the project, and what training from stages and tasks promises.

use std::path::{Path, PathBuf};

use fs_err as fs;
use tempfile::tempdir;

use crate::support::{conjoin, read_json, trained};

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    all.sort();
    all
}

#[test]
fn every_recipe_of_the_project_is_one() {
    let all = recipes();
    assert!(all.len() >= 6, "{all:?}");
    let dir = tempdir().unwrap();
    for path in all {
        // Those that stream shards are told that these are not here.
        let streams = fs::read_to_string(&path).unwrap().contains("shards = ");
        let code = i32::from(streams);
        let checked =
            conjoin(dir.path(), &["train", path.to_str().unwrap(), "--check"]).expect(code);
        assert_eq!(checked.err.contains("shards are missing"), streams, "{}", checked.err);
        fs::write(dir.path().join("resolved.toml"), &checked.out).unwrap();
        let again = conjoin(dir.path(), &["train", "resolved.toml", "--check"]).expect(code);
        assert_eq!(again.out, checked.out, "{}", path.display());
    }
}

#[test]
fn recipes_for_large_machines_run_in_small() {
    let mut tried = 0;
    for path in recipes() {
        if !fs::read_to_string(&path).unwrap().contains("[smoke]") {
            continue;
        }
        let dir = tempdir().unwrap();
        let (recipe, out) = (path.to_str().unwrap(), dir.path().join("run"));
        let out = out.to_str().unwrap();
        conjoin(trained(), &["train", recipe, "--smoke", "--out", out]).expect(0);
        conjoin(trained(), &["doctor", &format!("{out}/model"), "--no-speed"]).expect(0);
        tried += 1;
    }
    assert!(tried >= 2, "{tried}");
}

/// Two stages of two tasks on the small shop: pictures with texts, and a file of triplets.
fn staged(dir: &Path) {
    let data = trained().join("data").display().to_string();
    let triplets: String = (0..40)
        .map(|i| {
            format!(
                "{{\"q\": \"query {i}\", \"d\": \"fruit number {i}\", \"n\": [\"stone {i}\", \"brick {i}\"]}}\n"
            )
        })
        .collect();
    fs::write(dir.join("triplets.jsonl"), triplets + "not json\n").unwrap();
    let graded: String =
        (0..30).map(|i| format!("word {i},word {},{}\n", i + i % 3, 3 - i % 3)).collect();
    fs::write(dir.join("graded.csv"), graded).unwrap();
    let text = format!(
        r#"
out = "run"
start.towers = {{ image_size = 64, width = 32, max_tokens = 32, text.new = {{ width = 32, layers = 2, heads = 2 }} }}

[[measure]]
name = "shop"
items = "{data}"

[[measure]]
name = "graded"
graded = {{ path = "graded.csv", columns = {{ query = 0, document = 1, grade = 2 }} }}

[train]
seed = 1
steps = 4
token_dropout = 0.1
evaluate_every = 2
interpolate = [0.5, 1.0]
text.select = {{ freeze_layers = 1 }}
chunks = {{ text = {{ size = 8, held = 4 }}, image = {{ size = 4, held = 4 }} }}
schedule = {{ peak_lr = 0.001, warmup_steps = 2, decay = "cosine", floor = 0.0 }}
optimizer = {{ betas = [0.9, 0.98], eps = 1e-6, weight_decay = 0.05, lr_multipliers = [] }}

[[stage]]
name = "first"

[[stage.task]]
name = "pairs"
batch = 8
data = [{{ items = {{ path = "{data}" }} }}]
loss = {{ kind = "info_nce", reduction = "symmetric_sum", log_scale = {{ init = 2.65926, min = 0.0, max = 4.6, learned = true }} }}

[[stage.task]]
name = "views"
batch = 4
weight = 0.5
data = [{{ items = {{ path = "{data}", pair = "image_image" }} }}]
loss = {{ kind = "sigmoid", log_scale = {{ init = 2.3, min = 0.0, max = 4.6, learned = true }}, bias = {{ init = -2.0, min = -20.0, max = 20.0, learned = true }} }}

[[stage]]
name = "second"
precision = "bf16"
steps = 3

[[stage.task]]
name = "pairs"
batch = 8
data = [{{ items = {{ path = "{data}" }} }}]
loss = {{ kind = "info_nce", reduction = "symmetric_sum", log_scale = {{ init = 2.65926, min = 0.0, max = 4.6, learned = true }} }}

[[stage.task]]
name = "triplets"
batch = 8
mixing = "mixed"
data = [
  {{ weight = 3.0, pairs = {{ path = "triplets.jsonl", columns = {{ query = "q", document = "d", negatives = ["n"] }} }} }},
  {{ weight = 1.0, pairs = {{ path = "triplets.jsonl", columns = {{ query = "d", document = "q", negatives = ["n"] }} }} }},
]
loss = {{ kind = "matryoshka", dims = [{{ dim = 32, weight = 1.0 }}, {{ dim = 16, weight = 0.5 }}], loss = {{ kind = "info_nce", reduction = "one_way", log_scale = {{ init = 3.0, min = 0.0, max = 4.6, learned = false }} }} }}

[[stage.task]]
name = "grades"
batch = 8
data = [{{ pairs = {{ path = "graded.csv", columns = {{ query = 0, document = 1, grade = 2 }} }} }}]
loss = {{ kind = "cosent", log_scale = {{ init = 3.0, min = 0.0, max = 4.6, learned = false }} }}
"#
    );
    fs::write(dir.join("recipe.toml"), text).unwrap();
}

#[test]
fn stages_go_on_from_each_other_and_are_done_once() {
    let dir = tempdir().unwrap();
    staged(dir.path());
    let train =
        |more: &[&str]| conjoin(dir.path(), &[&["train", "recipe.toml"], more].concat()).expect(0);
    let said = train(&[]).err;
    assert!(said.contains("second: 1 rows left out (1 bad_json"), "{said}");
    let run = dir.path().join("run/train");
    let first = read_json(run.join("first/figures.json"));
    let second = read_json(run.join("second/figures.json"));
    for figures in [&first, &second] {
        for name in
            ["shop/text_to_image/recall@1", "shop/image_to_text/recall@10", "graded/spearman"]
        {
            assert!(figures["figures"][name].is_number(), "{name}: {figures}");
        }
    }
    assert_eq!(second["scalars"]["triplets"]["log_scale"], 3.0, "a fixed temperature");
    let log = |stage: &str, line: usize| -> serde_json::Value {
        let text = fs::read_to_string(run.join(stage).join("train.jsonl")).unwrap();
        serde_json::from_str(text.lines().nth(line).unwrap()).unwrap()
    };
    let tasks = log("second", 0);
    let tasks = tasks["tasks"].as_object().unwrap();
    assert_eq!(tasks.keys().collect::<Vec<_>>(), ["grades", "pairs", "triplets"]);
    assert_eq!(tasks["triplets"]["pairs"], 8);
    // A task of the same name goes on with its numbers.
    let went_on = tasks["pairs"]["scalars"]["log_scale"].as_f64().unwrap() as f32;
    assert_eq!(first["scalars"]["pairs"]["log_scale"].as_f64().unwrap() as f32, went_on);
    assert!((went_on - 2.65926).abs() > 1e-6, "it was learned: {went_on}");
    assert!(run.join("first/model").exists(), "what the second stage began with");
    assert!(!run.join("second/model").exists(), "the last model is the recipe's");
    let fingerprint =
        || read_json(dir.path().join("run/model/manifest.json"))["fingerprint"].clone();
    let whole = fingerprint();

    // The last stage again, from the first one's model: the same.
    let said = train(&["--again", "second"]).err;
    assert!(said.contains("first: done before"), "{said}");
    assert_eq!(fingerprint(), whole);
    // Without the first stage it is another model.
    train(&["--skip", "first", "--out", "other"]);
    let other = read_json(dir.path().join("other/model/manifest.json"))["fingerprint"].clone();
    assert_ne!(other, whole);
    let events = fs::read_dir(run.join("first")).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("events.out.tfevents.")
    });
    assert_eq!(events.count(), 1);
}

/// Data, a loss, steps and a rate are enough; layers are computed twice and patches left out where told.
#[test]
fn the_shortest_recipe_trains_and_towers_are_told_what_to_keep() {
    let dir = tempdir().unwrap();
    let data = trained().join("data").display().to_string();
    let recipe = |image: &str| {
        format!(
            r#"
out = "run"
start.towers = {{ image_size = 64, width = 32, max_tokens = 32, {image} text.new = {{ width = 32, layers = 2, heads = 2 }} }}
train.steps = 3
train.schedule.peak_lr = 0.001
train.task = [{{ data = [{{ items = {{ path = "{data}" }} }}], loss.kind = "info_nce" }}]
"#
        )
    };
    let vit = "image.new = { patch = 16, width = 32, layers = 2, heads = 2 },";
    fs::write(dir.path().join("net.toml"), recipe("")).unwrap();
    fs::write(dir.path().join("vit.toml"), recipe(vit)).unwrap();
    let train = |recipe: &str, out: &str, more: &[&str]| {
        conjoin(dir.path(), &[&["train", recipe, "--out", out], more].concat())
    };
    let print = |out: &str| {
        read_json(dir.path().join(out).join("model/manifest.json"))["fingerprint"].clone()
    };
    train("net.toml", "net", &[]).expect(0);
    let line = fs::read_to_string(dir.path().join("net/train/train.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(first["pairs"], 32, "all there are");
    if cfg!(target_os = "linux") {
        assert!(first["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    }
    train("vit.toml", "plain", &[]).expect(0);
    let twice = ["train.text.checkpoint_layers=true", "train.image.checkpoint_layers=true"];
    train("vit.toml", "twice", &["--set", twice[0], "--set", twice[1]]).expect(0);
    assert_eq!(print("plain"), print("twice"), "layers computed twice change nothing");
    let half = ["--set", "train.patch_dropout=0.5"];
    train("vit.toml", "half", &half).expect(0);
    train("vit.toml", "again", &half).expect(0);
    assert_eq!(print("half"), print("again"));
    assert_ne!(print("half"), print("plain"));

    let refused = |more: [&str; 2], expected: &str| {
        let said = train("net.toml", "bad", &more).expect(2).err;
        assert!(said.contains(expected), "{said}");
    };
    refused(half, "`patch_dropout` is 0.5, it must be 0: the image tower has no patches");
    refused(["--set", "train.patch_dropout=1.0"], "`patch_dropout` is 1, it must be at least 0");
    refused(["--set", twice[1]], "`image.checkpoint_layers` is true, it must be false");
    let whole = "train.image={lora={rank=2,alpha=4.0,targets=[{suffix=\"projection.weight\"}]},\
                 whole=[\"image.head.\"]}";
    let names = "such as `image.stem.weight`, `image.blocks.0";
    refused(["--set", whole], names);
    refused(["--set", "train.image.select.freeze=[\"picture.\"]"], names);
}

#[test]
fn what_does_not_fit_a_task_is_told_by_its_key() {
    let dir = tempdir().unwrap();
    staged(dir.path());
    let check = |more: &[&str], expected: &str| {
        let line = [&["train", "recipe.toml", "--skip", "first", "--out", "bad"], more].concat();
        let said = conjoin(dir.path(), &line).expect(2).err;
        assert!(said.contains(expected), "{said}");
    };
    let needs = "`tasks.2.loss.kind` is for data with a teacher's scores, it must be a loss that the \
                 labels of its data allow";
    check(
        &["--set", "stage.task.loss={kind=\"kl\",temperatures={student=1.0,teacher=1.0}}"],
        needs,
    );
    check(&["--set", "stage.task.data=[]"], "task `grades` of stage `second` has no `data`");
    check(&["--set", "stage.precision=int8"], "bytes are too coarse for gradients");
    check(&["--skip", "third"], "`--skip third`: the recipe has no such stage");
}

/// Three tasks, each with what is told of its teacher: pictures with texts, triplets with scores, and
/// pictures changed in two ways.
fn taught(dir: &Path, [pictures, triplets, views]: [&str; 3]) {
    let data = trained().join("data").display().to_string();
    let line = |i: usize| {
        let scores = [1.0, if i.is_multiple_of(2) { 0.99 } else { 0.5 }, 0.2];
        format!(
            "{{\"q\": \"query {i}\", \"d\": \"fruit {i}\", \"n\": [\"stone {i}\", \"brick\"], \"s\": {scores:?}}}\n"
        )
    };
    fs::write(dir.join("triplets.jsonl"), (0..40).map(line).collect::<String>()).unwrap();
    let columns = r#"{ query = "q", document = "d", negatives = ["n"], scores = ["s"] }"#;
    let text = format!(
        r#"
out = "run"
start.towers = {{ image_size = 32, width = 32, max_tokens = 32, text.new = {{ width = 32, layers = 1, heads = 2 }} }}
train.steps = 2
train.schedule = {{ peak_lr = 0.001, warmup_steps = 0 }}

[[train.task]]
name = "pictures"
batch = 8
data = [{{ items = {{ path = "{data}" }} }}]
loss.kind = "info_nce"
{pictures}

[[train.task]]
name = "triplets"
batch = 8
mixing = "mixed"
data = [
  {{ pairs = {{ path = "triplets.jsonl", columns = {columns} }} }},
  {{ weight = 2.0, pairs = {{ path = "triplets.jsonl", columns = {columns} }} }},
]
loss = {{ kind = "info_nce", reduction = "one_way" }}
{triplets}

[[train.task]]
name = "views"
batch = 4
data = [{{ items = {{ path = "{data}", pair = "image_image" }} }}]
loss.kind = "sigmoid"
{views}
"#
    );
    fs::write(dir.join("recipe.toml"), text).unwrap();
}

/// A model of the reference files.
fn reference(name: &str) -> String {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity");
    parity.join(name).join("checkpoint").display().to_string()
}

/// What a recipe says of a teacher.
fn teacher(model: &str, threshold: &str) -> String {
    format!("teacher = {{ model = \"{model}\", {threshold} }}")
}

#[test]
fn documents_that_a_teacher_finds_to_fit_are_no_negatives() {
    let dir = tempdir().unwrap();
    let mut n_runs = 0;
    let mut train = |teachers: [&str; 3]| {
        taught(dir.path(), teachers);
        n_runs += 1;
        let out = format!("run-{n_runs}");
        conjoin(dir.path(), &["train", "recipe.toml", "--out", &out]).expect(0);
        read_json(dir.path().join(out).join("model/manifest.json"))
    };
    let (reads, sees) = (reference("sentence_encoders/plain"), trained().join("run/model"));
    let sees = sees.display().to_string();
    let plain = train(["", "", ""]);
    assert!(plain["inputs"].get("teacher.pictures").is_none());

    // All scores are below 1.1: every task is as without a teacher.
    let nothing = teacher(&sees, "above = 1.1");
    let none = train([&nothing, &nothing, &nothing]);
    assert_eq!(none["fingerprint"], plain["fingerprint"]);
    assert!(none["inputs"]["teacher.views"].is_string(), "{none}");

    // Each task alone, by teachers that see, that only read, and by the data's scores.
    let mut seen = vec![plain["fingerprint"].clone()];
    let by_texts = teacher(&reads, "share = 0.5");
    // What fits better than the own picture; pictures that are like each other at all.
    let by_pictures = teacher(&sees, "margin = 0.0");
    let by_views = teacher(&sees, "margin = 0.5");
    let cases = [
        [by_texts.as_str(), "", ""],
        [&by_pictures, "", ""],
        ["", &by_texts, ""],
        ["", "teacher = { share = 0.95 }", ""],
        ["", "", &by_views],
    ];
    for case in cases {
        let found = train(case)["fingerprint"].clone();
        assert!(!seen.contains(&found), "{case:?}");
        seen.push(found);
    }
    let again = train(["", &by_texts, ""])["fingerprint"].clone();
    assert_eq!(again, seen[3], "the same once more");
}

#[test]
fn what_a_teacher_cannot_be_is_told_by_its_key() {
    let dir = tempdir().unwrap();
    let check = |teachers: [&str; 3], expected: &[&str]| {
        taught(dir.path(), teachers);
        let said = conjoin(dir.path(), &["train", "recipe.toml"]).expect(2).err;
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    };
    let reads = reference("sentence_encoders/plain");
    let nowhere = teacher("nowhere", "above = 0.9");
    check(
        ["", "", &nowhere],
        &["in task `views` of stage `train`", "`teacher.model` is `nowhere`"],
    );
    let checked = conjoin(dir.path(), &["train", "recipe.toml", "--check"]).expect(1).err;
    let missing =
        "task `views` of stage `train`: `teacher.model` is `nowhere`, there is no such folder";
    assert!(checked.contains(missing), "{checked}");
    let without = teacher(&reads, "above = 0.9");
    let tower = ", it must be a model with a tower for images: the task has pairs of pictures";
    check(["", "", &without], &["task `views`", "`teacher.model` is `", tower]);
    let blind = teacher(&reference("clip/vision"), "above = 0.9");
    check(["", &blind, ""], &["it must be a model with a tower for texts: the task has texts"]);
    let one = "`teacher` needs one of `above`, `share` and `margin`";
    check(["", &teacher(&reads, "above = 0.9, share = 0.9"), ""], &["in task `triplets`", one]);
    check(["teacher = {}", "", ""], &["in task `pictures`", one]);
    check(
        ["teacher = { share = 0.95 }", "", ""],
        &[
            "`tasks.0.teacher.model` is left out, it must be a model, or data with a teacher's scores",
        ],
    );
    check(["", &teacher(&reads, "share = 0.0"), ""], &["`tasks.1.teacher.share` is 0"]);
    check(["", "teacher_share = 0.95", ""], &["teacher_share"]);
}
