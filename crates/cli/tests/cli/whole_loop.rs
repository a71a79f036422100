//! Every stage, one after the other, each on what the one before has made.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::{Running, beside, conjoin, photos, read_json, run, trained};

#[test]
fn a_checked_recipe_parses_to_itself() {
    let (dir, recipe) = beside("recipe.toml");
    let first =
        conjoin(dir.path(), &["train", &recipe, "--check", "--set", "train.steps=7"]).expect(0);
    assert!(first.out.contains("steps = 7"), "{}", first.out);
    fs_err::write(dir.path().join("again.toml"), &first.out).unwrap();
    let second = run(dir.path(), "train again.toml --check").expect(0);
    assert_eq!(first.out, second.out);
    assert_eq!(first.err, "", "nothing else is said");
}

#[test]
fn evaluates_one_model_and_compares_two() {
    let dir = trained();
    let one = run(dir, "eval --model run/model --data data --json").expect(0).json();
    let recall = one["after"]["text_to_image"]["recall@10"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&recall), "{one}");
    assert_eq!(one.get("before"), None);

    let out = tempfile::tempdir().unwrap();
    let report = out.path().join("report");
    let line = format!(
        "eval --model run/model --model run/model --data data --json --out {}",
        report.display()
    );
    let two = run(dir, &line).expect(0).json();
    assert_eq!(two["before"], two["after"], "the same model twice");
    let stored = read_json(report.join("report.json"));
    let tasks = stored["parts"]["comparison"]["tasks"].as_array().unwrap();
    assert!(tasks.iter().any(|task| task["name"] == "text_to_image"), "{tasks:?}");
    assert!(fs_err::read_to_string(report.join("report.html")).unwrap().contains("</html>"));
}

#[test]
fn embeds_into_both_formats() {
    let (dir, model) = beside("run/model");
    let data = trained().join("data").display().to_string();
    let embed = |format: &str, out: &str| {
        let args = ["embed", &data, "--model", &model, "--format", format, "--out", out];
        conjoin(dir.path(), &args).expect(0);
        dir.path().join(out)
    };
    let npy = embed("npy", "npy");
    let (shape, rows) = read_npy(&fs_err::read(npy.join("image.npy")).unwrap());
    assert_eq!(shape, (photos().len(), 32));
    for row in rows.chunks(32) {
        let length: f32 = row.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-4, "unit length");
    }
    let ids = fs_err::read_to_string(npy.join("image.ids.txt")).unwrap();
    let expected: Vec<&str> = photos().iter().map(|photo| photo.id.as_str()).collect();
    assert_eq!(ids.lines().collect::<Vec<_>>(), expected);
    let fingerprint = &read_json(trained().join("run/model/manifest.json"))["fingerprint"];
    assert_eq!(&read_json(npy.join("manifest.json"))["fingerprint"], fingerprint);

    let bytes = fs_err::read(embed("safetensors", "st").join("vectors.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let image = tensors.tensor("image").unwrap();
    let bits: Vec<u8> = rows.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!((image.shape(), image.data()), (&[photos().len(), 32][..], &bits[..]));
    assert_eq!(tensors.tensor("text").unwrap().shape(), [photos().len(), 32]);
}

/// Shape and values of a NumPy file of little-endian 32-bit floats.
fn read_npy(bytes: &[u8]) -> ((usize, usize), Vec<f32>) {
    let n_header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + n_header]).unwrap();
    let shape = header.split(['(', ')']).nth(1).unwrap();
    let (rows, width) = shape.split_once(", ").unwrap();
    let values = bytes[10 + n_header..].as_chunks::<4>().0;
    let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    ((rows.parse().unwrap(), width.parse().unwrap()), values)
}

#[test]
fn embeds_lines_and_pictures() {
    let (dir, model) = beside("run/model");
    fs_err::write(dir.path().join("queries.txt"), "red apple\nsour milk\n").unwrap();
    fs_err::write(dir.path().join("a.jpg"), &photos()[0].jpeg).unwrap();
    fs_err::write(dir.path().join("broken.jpg"), &photos()[0].jpeg[..200]).unwrap();
    let line = format!("embed queries.txt a.jpg broken.jpg --model {model} --out v");
    let ran = run(dir.path(), &line).expect(0);
    assert!(ran.err.contains("warning: `broken.jpg`"), "{}", ran.err);
    let ids = |name: &str| fs_err::read_to_string(dir.path().join("v").join(name)).unwrap();
    assert_eq!(ids("text.ids.txt"), "queries.txt:1\nqueries.txt:2\n");
    assert_eq!(ids("image.ids.txt"), "a.jpg\n");
}

#[test]
fn searches_by_text_by_picture_and_by_both() {
    let dir = trained();
    let photo = &photos()[5];
    let picture = format!("shop/pictures/{}.jpg", photo.id);
    let ids = |args: &[&str]| -> Vec<String> {
        let args = [&["search", "index"], args, &["--json"]].concat();
        let hits = conjoin(dir, &args).expect(0).json();
        hits.as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["red apple", "-k", "3"]).len(), 3);
    let by_picture = ids(&["--image", &picture, "--over", "image", "-k", "1"]);
    assert_eq!(by_picture, std::slice::from_ref(&photo.id), "a picture finds itself");
    assert_eq!(ids(&[&photo.name, "--image", &picture, "-k", "5"]).len(), 5);
    let people = conjoin(dir, &["search", "index", "red apple", "-k", "2"]).expect(0);
    assert_eq!(people.out.lines().count(), 2);
    assert!(people.out.starts_with("  1. "), "{}", people.out);
    assert_eq!(people.err, "");
}

#[test]
fn serves_until_ctrl_c() {
    let mut server = Running::start(trained(), "serve index --address 127.0.0.1:0");
    let line = server.wait_for("serving on http://");
    let address = line.split(['/', ' ']).find(|part| part.starts_with("127.0.0.1:")).unwrap();

    let (status, health) = ask(address, "GET", "/health", None);
    assert_eq!((status, health["items"].as_u64()), (200, Some(photos().len() as u64)));
    let (status, page) = send(address, "GET", "/", "");
    assert!(status == 200 && page.contains("</html>"), "{page}");

    let photo = &photos()[5];
    let image = format!("data:image/jpeg;base64,{}", STANDARD.encode(&photo.jpeg));
    let input = json!({"input": ["red apple", {"image": image}]});
    let (status, vectors) = ask(address, "POST", "/v1/embeddings", Some(input));
    assert_eq!(status, 200, "{vectors}");
    for vector in vectors["data"].as_array().unwrap() {
        assert_eq!(vector["embedding"].as_array().unwrap().len(), 32);
    }
    let query = json!({"image": image, "over": "image", "top_k": 1});
    let (status, found) = ask(address, "POST", "/v1/search", Some(query));
    assert_eq!((status, &found["hits"][0]["id"]), (200, &json!(photo.id)), "{found}");
    let (status, _) = ask(address, "POST", "/v1/search", Some(json!({"text": "milk"})));
    assert_eq!(status, 200);

    server.interrupt();
    let ran = server.end().expect(0);
    assert!(ran.err.contains("server stopped"), "{}", ran.err);
}

fn ask(address: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let (status, text) =
        send(address, method, path, &body.map_or(String::new(), |b| b.to_string()));
    (status, serde_json::from_str(&text).unwrap())
}

/// Status and body of one request.
fn send(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
