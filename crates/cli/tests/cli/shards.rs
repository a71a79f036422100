//! Training on shards that are streamed: from the command line, with bad samples, stopped and gone on with.

use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::support::{conjoin, photos, recipe, run, trained};

/// Writes `shards/s-0.tar` to `s-2.tar` with the pictures of the shop, and samples that cannot be used.
fn make_shards(dir: &Path) {
    fs::create_dir_all(dir.join("shards")).unwrap();
    let photos = photos();
    for (shard, photos) in photos.chunks(photos.len().div_ceil(3)).enumerate() {
        let path = dir.join(format!("shards/s-{shard}.tar"));
        let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        for photo in photos {
            add(&format!("{}.jpg", photo.id), &photo.jpeg);
            add(&format!("{}.txt", photo.id), photo.name.as_bytes());
        }
        if shard == 0 {
            add("broken.jpg", &photos[0].jpeg[..200]);
            add("broken.txt", b"half a picture");
            add("silent.jpg", &photos[0].jpeg);
            add("silent.txt", b" \n");
        }
        tar.into_inner().unwrap();
    }
}

/// A recipe of two epochs over `shards`.
fn write_recipe(dir: &Path, steps: u64, shards: &str, prefetch: &str) {
    let data = trained().join("data").display().to_string();
    let streamed =
        format!("{{ shards = {{ path = \"{shards}\", shuffle_buffer = 20, interleave = 2 }} }}");
    let text = recipe(steps)
        .replace("{ items = { path = \"data\", first_share = 0.5 } }", &streamed)
        .replace("items = \"data\"", &format!("items = \"{data}\""))
        .replace("clip_norm", &format!("prefetch = {prefetch}\nclip_norm"));
    assert!(text.contains("shards = "), "{text}");
    fs::write(dir.join("recipe.toml"), text).unwrap();
}

fn weights(dir: &Path, out: &str) -> Vec<u8> {
    fs::read(dir.join(out).join("model/weights.safetensors")).unwrap()
}

#[test]
fn shards_are_streamed_and_bad_samples_cost_themselves() {
    let dir = tempfile::tempdir().unwrap();
    make_shards(dir.path());
    // 66 samples, batches of 8: 8 steps an epoch.
    write_recipe(dir.path(), 16, "shards", "{ threads = 1, ahead = 1 }");
    let said = run(dir.path(), "train recipe.toml").expect(0).err;
    assert!(said.contains("item `s-0.tar:silent`: field `txt` is blank"), "{said}");
    assert!(said.contains("item `s-0.tar:broken`: "), "{said}");
    let log = fs::read_to_string(dir.path().join("run/train/train.jsonl")).unwrap();
    let count = |key: &str| -> u64 {
        let lines =
            log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line[key].as_u64().unwrap()).sum()
    };
    let n_bad = said.lines().filter(|line| line.contains("item `s-0.tar:")).count() as u64;
    assert!((2..=4).contains(&n_bad), "each at most once an epoch: {said}");
    assert_eq!((count("pairs"), count("rejected")), (16 * 8 - n_bad, n_bad));
    // Threads change nothing, and neither do the bytes that may wait.
    write_recipe(dir.path(), 16, "shards", "{ threads = 3, ahead = 4 }");
    run(dir.path(), "train recipe.toml --out threads").expect(0);
    let set = "train.task.data=[{shards={path=\"shards/s-{0..2}.tar\",shuffle_buffer=20,interleave=2,shuffle_bytes=9000}}]";
    conjoin(dir.path(), &["train", "recipe.toml", "--out", "bytes", "--set", set]).expect(0);
    assert_eq!(weights(dir.path(), "threads"), weights(dir.path(), "run"));
    assert_eq!(weights(dir.path(), "bytes"), weights(dir.path(), "run"));
}

#[test]
#[cfg(unix)]
fn a_stopped_stream_goes_on_with_the_same_samples() {
    use crate::support::Running;

    let dir = tempfile::tempdir().unwrap();
    make_shards(dir.path());
    write_recipe(dir.path(), 30, "shards/s-?.tar", "{ threads = 2, ahead = 3 }");
    run(dir.path(), "train recipe.toml --out whole").expect(0);
    // In the first window, in the middle, in the third epoch.
    for moment in ["step 2:", "step 12:", "step 20:"] {
        let mut running = Running::start(dir.path(), "train recipe.toml --out parts");
        running.wait_for(moment);
        running.interrupt();
        running.end().expect(2);
    }
    let mut killed = Running::start(dir.path(), "train recipe.toml --out parts");
    killed.wait_for("step 26:");
    killed.kill();
    run(dir.path(), "train recipe.toml --out parts").expect(0);
    assert_eq!(weights(dir.path(), "parts"), weights(dir.path(), "whole"));
    let losses = |out: &str| -> Vec<String> {
        let log: PathBuf = dir.path().join(out).join("train/train.jsonl");
        let of = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].to_string()
        };
        fs::read_to_string(log).unwrap().lines().map(of).collect()
    };
    assert_eq!(losses("parts"), losses("whole"));
}

#[test]
fn missing_shards_are_named_before_anything_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    make_shards(dir.path());
    write_recipe(dir.path(), 4, "shards/s-{0..2}.tar", "{ threads = 1, ahead = 1 }");
    run(dir.path(), "train recipe.toml --check").expect(0);
    write_recipe(dir.path(), 4, "shards/s-{0..4}.tar", "{ threads = 1, ahead = 1 }");
    let told = "2 of 5 shards are missing: `shards/s-3.tar`, `shards/s-4.tar`";
    let checked = run(dir.path(), "train recipe.toml --check").expect(1);
    let expected = format!(
        "task `pairs` of stage `train`: cannot stream shards `shards/s-{{0..4}}.tar`: {told}"
    );
    assert!(checked.err.contains(&expected), "{}", checked.err);
    assert!(checked.out.contains("shuffle_bytes = 1073741824"), "{}", checked.out);
    let said = run(dir.path(), "train recipe.toml").expect(2).err;
    assert!(said.contains(told), "{said}");
}
