//! Texts to token ids: microseconds per text on one thread, and on all.
//!
//! In:  a file with a text per line, and a `tokenizer.json` if not BERT's. Out: a line per way.
//!
//! `cargo bench -p conjoin-input --bench tokenise -- TEXTS [TOKENIZER]`. The best of several rounds is told.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{hint::black_box, time::Instant};

use conjoin_input::Tokenizer;

/// Rounds of which the best one is told.
const ROUNDS: usize = 5;

/// Tokens that texts are cut to.
const MAX_TOKENS: usize = 256;

fn main() {
    let files: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let text = match files.first() {
        Some(file) => fs_err::read_to_string(file).expect("a file of texts"),
        None => "Delta Vero 1-handle shower only faucet trim kit, chrome\n".repeat(2000),
    };
    let tokenizer = match files.get(1) {
        Some(file) => Tokenizer::from_json(&fs_err::read(file).expect("a tokenizer.json")),
        None => Tokenizer::from_wordpiece(include_bytes!(
            "../../../assets/tokenizers/bert-base-uncased.vocab.txt"
        )),
    };
    let tokenizer = tokenizer.expect("a tokenizer");
    let texts: Vec<&str> = text.lines().collect();
    let one = |text: &&str| tokenizer.encode(text, MAX_TOKENS).expect("a text").ids.len();
    let n_tokens: usize = texts.iter().map(one).sum();
    println!("{} texts, {:.1} tokens each", texts.len(), n_tokens as f64 / texts.len() as f64);
    tell("one thread", texts.len(), || texts.iter().map(one).sum());
    tell("all threads", texts.len(), || tokenizer.encode_batch(&texts, MAX_TOKENS).len());
}

fn tell(way: &str, n: usize, work: impl Fn() -> usize) {
    let round = |_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed().as_secs_f64() * 1e6 / n as f64
    };
    let best = (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min);
    println!("{way:<12} {best:>8.2} µs per text");
}
