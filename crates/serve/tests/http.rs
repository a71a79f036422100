//! The server over real sockets: shapes of answers, limits, batching, overload and stopping.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{FakeItem, FakeModel, FakeStore, Running, http::Answer, send};
use conjoin_serve::{ServeConfig, Server};
use serde_json::{Value, json};

/// The first bytes of a PNG and of a JPEG are all the server itself looks at.
const MUG: &[u8] = b"\x89PNG\r\n\x1a\n mug";
const HAT: &[u8] = b"\xff\xd8\xff hat";

fn uri(picture: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(picture))
}

fn model() -> Arc<FakeModel> {
    let captions = [(MUG.to_vec(), "red mug".to_owned()), (HAT.to_vec(), "blue hat".to_owned())];
    Arc::new(FakeModel::new(captions.into()))
}

fn store() -> FakeStore {
    FakeStore { items: items(), is_calibrated: false }
}

fn items() -> Vec<FakeItem> {
    let vector = |text| Some(FakeModel::vector(text));
    let payload = |title: &str| [("title".to_owned(), title.to_owned())].into();
    let full = FakeItem {
        id: "mugs/red é".to_owned(),
        payload: payload("Red mug"),
        text: vector("red mug"),
        image: vector("red mug"),
        picture: Some(MUG.to_vec()),
    };
    let picture = Some(HAT.to_vec());
    let image = FakeItem {
        id: "hat".to_owned(),
        image: vector("blue hat"),
        picture,
        ..FakeItem::default()
    };
    let text = FakeItem {
        id: "book".to_owned(),
        payload: payload("Book"),
        text: vector("green book"),
        ..FakeItem::default()
    };
    vec![full, image, text]
}

fn start(config: ServeConfig) -> Running {
    Running::start(config, model(), store())
}

fn get(server: &Running, path: &str) -> Answer {
    send(&server.address, &format!("GET {path}"), "", b"")
}

fn post(server: &Running, path: &str, body: &Value) -> Answer {
    post_to(&server.address, path, body)
}

fn post_to(address: &str, path: &str, body: &Value) -> Answer {
    let headers = "Content-Type: application/json\r\n";
    send(address, &format!("POST {path}"), headers, body.to_string().as_bytes())
}

#[track_caller]
fn check_error(answer: &Answer, status: u16, code: &str, message: &str) {
    let error = &answer.json()["error"];
    assert_eq!((answer.status, error["code"].as_str()), (status, Some(code)), "{error}");
    assert_eq!(error["message"], message);
    let kind = if status >= 500 { "server_error" } else { "invalid_request_error" };
    assert_eq!(error["type"], kind);
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn embeds_in_the_shape_of_openai() {
    let server = start(ServeConfig::default());
    let request = json!({"model": "conjoin", "input": "red mug", "encoding_format": "float"});
    let answer = post(&server, "/v1/embeddings", &request).json();
    let expected = json!({
        "object": "list",
        "data": [{
            "object": "embedding", "index": 0, "embedding": answer["data"][0]["embedding"],
            "tokens": {"used": 2, "total": 2},
        }],
        "model": "conjoin",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    });
    assert_eq!(answer, expected);
    assert_eq!(floats(&answer["data"][0]["embedding"]), FakeModel::vector("red mug"));

    let request = json!({"input": "red mug", "encoding_format": "base64", "dimensions": 64});
    let answer = post(&server, "/v1/embeddings", &request).json();
    let bytes = STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let values: Vec<f32> =
        bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    assert_eq!(values, FakeModel::vector("red mug"));
}

#[test]
fn cuts_vectors_to_the_dimensions_asked() {
    let server = start(ServeConfig::default());
    let request = json!({"input": ["red mug", {"image": uri(HAT)}], "dimensions": 16});
    let answer = post(&server, "/v1/embeddings", &request).json();
    for (at, caption) in ["red mug", "blue hat"].into_iter().enumerate() {
        let whole = FakeModel::vector(caption);
        let whole = conjoin_core::Embeddings::new(whole.len(), whole).unwrap();
        assert_eq!(floats(&answer["data"][at]["embedding"]), whole.cut(16).values());
    }
    let model = &get(&server, "/v1/models").json()["data"][0];
    assert_eq!(model["shorter_dimensions"], json!([16]));
}

#[test]
fn embeds_texts_and_images_in_the_order_asked_and_tells_truncation() {
    let server = start(ServeConfig::default());
    let long = "a b c d e f g h i j";
    let input = json!([{"image": uri(HAT)}, "red mug", {"text": long}, {"image": uri(MUG)}]);
    let answer = post(&server, "/v1/embeddings", &json!({"input": input})).json();
    let data = answer["data"].as_array().unwrap();
    for (at, caption) in ["blue hat", "red mug", long, "red mug"].into_iter().enumerate() {
        assert_eq!(data[at]["index"], at);
        assert_eq!(floats(&data[at]["embedding"]), FakeModel::vector(caption));
        assert_eq!(data[at].get("truncated"), (at == 2).then_some(&json!(true)));
    }
    assert_eq!(data[2]["tokens"], json!({"used": 8, "total": 10}));
    assert_eq!(data[0].get("tokens"), None, "pictures have none");
    assert_eq!(answer["usage"]["total_tokens"], 2 + 8);
}

#[test]
fn refuses_embeddings_with_a_reason() {
    let config = ServeConfig { max_inputs: 2, max_text_bytes: 20, ..ServeConfig::default() };
    let server = start(config);
    let check = |body: Value, status, code, message: &str| {
        check_error(&post(&server, "/v1/embeddings", &body), status, code, message);
    };
    let message = "dimensions is 8, this model's embeddings can have [16, 64]";
    check(json!({"input": "a", "dimensions": 8}), 400, "unsupported_dimensions", message);
    let message = "no model `gpt` here, this server has `conjoin`";
    check(json!({"input": "a", "model": "gpt"}), 404, "model_not_found", message);
    check(json!({"input": ["a", "b", "c"]}), 400, "too_many_inputs", "3 inputs, the limit is 2");
    let message = "input 0 has 21 bytes of text, the limit is 20";
    check(json!({"input": "x".repeat(21)}), 400, "invalid_input", message);
    let message =
        "input 0 must be an image as `data:image/…;base64,…`; addresses are never fetched";
    let body = json!({"input": [{"image": "http://localhost/x.png"}]});
    check(body, 400, "invalid_input", message);
    let message = "input 1: cannot read this image: the fake model does not know it";
    let body = json!({"input": ["a", {"image": uri(b"x")}]});
    check(body, 400, "unreadable_input", message);
    let message = "the body is not the expected JSON: missing field `input` at line 1 column 2";
    check(json!({}), 400, "invalid_json", message);
}

#[test]
fn refuses_bodies_that_are_not_wanted() {
    let server = start(ServeConfig { max_body_bytes: 2000, ..ServeConfig::default() });
    let answer = post(&server, "/v1/search", &json!({"text": "x".repeat(3000)}));
    check_error(&answer, 413, "body_too_large", "the body has more than 2000 bytes");
    let answer = send(&server.address, "POST /v1/search", "Content-Type: text/plain\r\n", b"{}");
    check_error(&answer, 415, "content_type", "the content type must be application/json");
    let headers = "Content-Type: application/json; charset=utf-8\r\n";
    let answer = send(&server.address, "POST /v1/search", headers, b"{\"text\"");
    let message =
        "the body is not the expected JSON: EOF while parsing an object at line 1 column 7";
    check_error(&answer, 400, "invalid_json", message);
    check_error(&get(&server, "/v1/none"), 404, "not_found", "there is nothing at this path");
    let message = "this path does not take this method";
    check_error(&get(&server, "/v1/search"), 405, "method_not_allowed", message);
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap()).collect()
}

#[test]
fn searches_by_text_by_image_and_by_both() {
    let server = start(ServeConfig::default());
    let answer = post(&server, "/v1/search", &json!({"text": "red mug"})).json();
    assert_eq!(ids(&answer)[0], "mugs/red é");
    let best = &answer["hits"][0];
    assert_eq!(best["payload"], json!({"title": "Red mug"}));
    assert_eq!(best["picture"], "/v1/items/mugs%2Fred%20%C3%A9/picture");
    assert_eq!(best["legs"].as_array().unwrap().len(), 3);
    assert_eq!(best["legs"][0]["vector"], "text");
    assert!((best["score"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert_eq!(answer["hits"][2]["picture"].is_null(), ids(&answer)[2] == "book");
    assert_eq!((&answer["over"], &answer["truncated"]), (&json!("fused"), &json!(false)));
    for time in ["embed_ms", "search_ms", "total_ms"] {
        assert!(answer["timings"][time].as_f64().unwrap() >= 0.0);
    }

    let answer = post(&server, "/v1/search", &json!({"image": uri(HAT), "top_k": 1})).json();
    assert_eq!(ids(&answer), ["hat"]);
    let answer = post(&server, "/v1/search", &json!({"text": "blue hat", "over": "text"})).json();
    assert!(!ids(&answer).contains(&"hat"), "an item without a text is not among texts");

    let both = |weights: Value| {
        let body = json!({"text": "green book", "image": uri(HAT), "weights": weights});
        let answer = post(&server, "/v1/search", &body).json();
        ids(&answer)[0].to_owned()
    };
    assert_eq!(both(json!({"text": 1.0, "image": 0.1})), "book");
    assert_eq!(both(json!({"text": 0.1, "image": 1.0})), "hat");
    let body = json!({"text": "green book", "image": uri(HAT)});
    let mut first_two = ids(&post(&server, "/v1/search", &body).json())[..2].join(" ");
    if first_two == "hat book" {
        first_two = "book hat".to_owned();
    }
    assert_eq!(first_two, "book hat");
}

#[test]
fn legs_tell_their_calibrated_cosine_where_there_is_one() {
    let store = FakeStore { items: items(), is_calibrated: true };
    let server = Running::start(ServeConfig::default(), model(), store);
    let answer = post(&server, "/v1/search", &json!({"text": "red mug"})).json();
    let legs = &answer["hits"][0]["legs"];
    assert!((legs[0]["calibrated"].as_f64().unwrap() - 10.0).abs() < 1e-4);
    assert_eq!(legs[2]["vector"], "fused");
    assert_eq!(legs[2].get("calibrated"), None);
}

#[test]
fn refuses_searches_with_a_reason() {
    let server = start(ServeConfig::default());
    let check = |body: Value, code, message: &str| {
        check_error(&post(&server, "/v1/search", &body), 400, code, message);
    };
    check(json!({}), "no_input", "there is no input");
    check(json!({"text": ""}), "invalid_input", "input 0 is empty");
    let message = "top_k is 1001, it must be 1 to 1000";
    check(json!({"text": "a", "top_k": 1001}), "invalid_top_k", message);
    let message = "weights need both a text and an image, finite, and may not cancel the query out";
    let weights = json!({"text": 1, "image": -1});
    check(json!({"text": "a", "weights": weights}), "invalid_weights", message);
    let body = json!({"text": "blue hat", "image": uri(HAT), "weights": weights});
    check(body, "invalid_weights", message);
    let message = "input 0: cannot read this image: the fake model does not know it";
    check(json!({"image": uri(b"x")}), "unreadable_input", message);
}

#[test]
fn pictures_come_with_a_type_from_their_bytes_and_are_not_sent_twice() {
    let server = start(ServeConfig::default());
    let answer = get(&server, "/v1/items/mugs%2Fred%20%C3%A9/picture");
    assert_eq!((answer.status, &answer.body[..]), (200, MUG));
    for line in ["content-type: image/png", "x-content-type-options: nosniff", "cache-control: "] {
        assert!(answer.head.contains(line), "{line} in {}", answer.head);
    }
    let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let headers = format!("If-None-Match: {tag}\r\n");
    let again = send(&server.address, "GET /v1/items/mugs%2Fred%20%C3%A9/picture", &headers, b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert!(get(&server, "/v1/items/hat/picture").head.contains("content-type: image/jpeg"));
    let message = "no item `book` with a picture";
    check_error(&get(&server, "/v1/items/book/picture"), 404, "no_picture", message);
    let message = "there is nothing at this path";
    check_error(&get(&server, "/v1/items/%FF/picture"), 404, "not_found", message);
}

#[test]
fn tells_its_health_and_its_model() {
    let server = start(ServeConfig { model: "towers".to_owned(), ..ServeConfig::default() });
    let expected = json!({
        "status": "ok", "model": "towers", "fingerprint": "fake-model",
        "modalities": ["text", "image"], "items": 3, "open_requests": 0,
    });
    assert_eq!(get(&server, "/health").json(), expected);
    let models = get(&server, "/v1/models").json();
    assert_eq!(models["object"], "list");
    let model = &models["data"][0];
    assert_eq!((&model["id"], &model["dimensions"]), (&json!("towers"), &json!(64)));
}

#[test]
fn the_page_may_run_its_own_script_only() {
    let server = start(ServeConfig::default());
    let page = get(&server, "/");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html; charset=utf-8"));
    let policy = page.head.lines().find(|line| line.starts_with("content-security-policy"));
    let policy = policy.unwrap();
    assert!(policy.contains("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(!page.head.contains("access-control"), "no page of another site may read this");
    let text = String::from_utf8(page.body).unwrap();
    assert!(!text.contains("innerHTML"), "payload is text");
    let outside = text.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http://") && !outside.contains("https://"), "needs no internet");
}

#[test]
fn a_panic_costs_one_request() {
    let server = start(ServeConfig::default());
    let answer = post(&server, "/v1/embeddings", &json!({"input": "panic"}));
    check_error(&answer, 500, "internal", "the server failed on this request");
    assert_eq!(post(&server, "/v1/embeddings", &json!({"input": "mug"})).status, 200);
}

/// Sends requests one by one until `n` are open at the server.
fn send_all(server: &Running, texts: &[&str]) -> Vec<thread::JoinHandle<Answer>> {
    let already = open_requests(server);
    let spawn = |(at, text): (usize, &&str)| {
        let (address, body) = (server.address.clone(), json!({"input": text}));
        let request = thread::spawn(move || post_to(&address, "/v1/embeddings", &body));
        while open_requests(server) < already + at + 1 {
            thread::yield_now();
        }
        request
    };
    texts.iter().enumerate().map(spawn).collect()
}

fn open_requests(server: &Running) -> usize {
    get(server, "/health").json()["open_requests"].as_u64().unwrap() as usize
}

#[test]
fn concurrent_texts_are_embedded_together_and_a_bad_one_costs_one_request() {
    let model = model();
    let config = ServeConfig { batch_texts: 4, batch_wait_ms: 1000, ..ServeConfig::default() };
    let server = Running::start(config, Arc::clone(&model), store());
    let first = send_all(&server, &["wait"]);
    let others = send_all(&server, &["red mug", "unreadable", "panic", "hat"]);
    model.open_gate();
    let status: Vec<u16> =
        first.into_iter().chain(others).map(|request| request.join().unwrap().status).collect();
    assert_eq!(status, [200, 200, 400, 500, 200]);
    // The waiting one alone, the four together, then each of the four as that failed.
    assert_eq!(*model.batches.lock().unwrap(), [1, 4, 1, 1, 1, 1]);
}

#[test]
fn a_lone_request_does_not_wait_for_others() {
    let server = start(ServeConfig { batch_wait_ms: 1000, ..ServeConfig::default() });
    let start = Instant::now();
    assert_eq!(post(&server, "/v1/embeddings", &json!({"input": "mug"})).status, 200);
    assert!(start.elapsed() < Duration::from_millis(900));
}

#[test]
fn more_requests_than_allowed_are_told_to_come_back() {
    let model = model();
    let config = ServeConfig { max_requests: 2, ..ServeConfig::default() };
    let server = Running::start(config, Arc::clone(&model), store());
    let waiting = send_all(&server, &["wait", "wait"]);
    let answer = post(&server, "/v1/search", &json!({"text": "mug"}));
    let message = "the server is at its limit of requests, try again";
    check_error(&answer, 503, "overloaded", message);
    assert!(answer.head.contains("retry-after: 1"));
    assert_eq!(get(&server, "/health").status, 200, "health is told under load too");
    model.open_gate();
    waiting.into_iter().for_each(|request| assert_eq!(request.join().unwrap().status, 200));
    assert_eq!(post(&server, "/v1/search", &json!({"text": "mug"})).status, 200);
}

#[test]
fn slow_work_ends_in_time_and_the_server_goes_on() {
    let model = model();
    let config = ServeConfig { timeout_ms: 100, ..ServeConfig::default() };
    let server = Running::start(config, Arc::clone(&model), store());
    let answer = post(&server, "/v1/embeddings", &json!({"input": "wait"}));
    check_error(&answer, 503, "timeout", "the request took longer than 100 ms");
    model.open_gate();
    assert_eq!(post(&server, "/v1/embeddings", &json!({"input": "mug"})).status, 200);
}

#[test]
fn a_stop_lets_open_requests_finish() {
    let model = model();
    let mut server = Running::start(ServeConfig::default(), Arc::clone(&model), store());
    let waiting = send_all(&server, &["wait"]);
    server.stop.request();
    while TcpStream::connect(&server.address).is_ok() {
        thread::yield_now();
    }
    model.open_gate();
    waiting.into_iter().for_each(|request| assert_eq!(request.join().unwrap().status, 200));
    server.join();
}

#[test]
fn refuses_an_index_of_another_model_and_a_taken_address() {
    struct Other(FakeStore);
    impl conjoin_core::Store for Other {
        fn fingerprint(&self) -> &str {
            "other"
        }
        fn len(&self) -> usize {
            self.0.items.len()
        }
        fn search(
            &self,
            request: &conjoin_core::SearchRequest,
        ) -> Result<Vec<conjoin_core::Hit>, conjoin_core::SearchError> {
            self.0.search(request)
        }
        fn picture(&self, id: &str) -> Option<&[u8]> {
            self.0.picture(id)
        }
    }
    let error = |config, store| Server::bind(config, model(), store).err().unwrap().to_string();
    let other = Arc::new(Other(store()));
    assert_eq!(
        error(ServeConfig::default(), other),
        "the index was made by model other, the model to serve is fake-model"
    );
    let server = start(ServeConfig::default());
    let config = ServeConfig { address: server.address.parse().unwrap(), ..ServeConfig::default() };
    assert_eq!(error(config, Arc::new(store())), format!("cannot listen on {}", server.address));
}
