//! What becomes of bad input. `docs/bad-input.md` is written from what really happens here; set
//! `CONJOIN_BLESS=1` to write it anew.

use std::{fmt::Write, path::Path};

use serde_json::Value;

use crate::support::{conjoin, copy, names, photos, recipe, run, trained};

/// A PNG of a few bytes whose header claims 30,000 × 30,000 pixels.
const HUGE_PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x75\x30\0\0\x75\x30\x08\x02\0\0\0\xe9\x45\x6f\xed\
    \0\0\0\x28IDAT\x78\x9c\xed\xc1\x01\x0d\0\0\0\xc2\xa0\xf7\x4f\x6d\x0f\x07\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x42\x5b\x71\x95\
    \0\0\0\0IEND\xae\x42\x60\x82";

/// Rows of one catalogue: what is wrong, and the line as it stands there.
const ROWS: [(&str, &[u8]); 17] = [
    ("nothing wrong", b"good,Red apple,apple.jpg"),
    ("a JPEG that breaks off", b"cut,Cut pear,cut.jpg"),
    ("a PNG that claims 30,000 x 30,000 pixels", b"huge,Huge plum,huge.png"),
    ("a picture file that is not there", b"absent,Absent melon,nowhere.jpg"),
    ("a picture that is really text", b"note,Noted lemon,note.jpg"),
    ("a picture on a network", b"url,Far mango,https://example.com/mango.jpg"),
    ("a picture path that leads out of the folder", b"escape,Escaped kiwi,../../secret.jpg"),
    ("an absolute picture path", b"absolute,Absolute lime,/etc/hostname"),
    ("a text but no picture", b"plain,Plain potato,"),
    ("a picture but no text", b"silent,,pear.jpg"),
    ("neither text nor picture", b"nothing,,"),
    ("an id that was there before", b"good,Green apple,"),
    ("the same row as before", b"good,Red apple,apple.jpg"),
    ("the same text and picture as before with another id", b"twin,Red apple,apple.jpg"),
    ("bytes that are not UTF-8", b"latin,Caf\xe9,"),
    ("a field too many", b"wide,Wide carrot,,what is this"),
    // The last one: what an unclosed quote swallows is lost.
    ("broken quoting", b"quoted,\"Broken \"quote,"),
];

fn make_rows(dir: &Path) {
    let file =
        |name: &str, bytes: &[u8]| fs_err::write(dir.join("shop").join(name), bytes).unwrap();
    fs_err::create_dir_all(dir.join("shop")).unwrap();
    let (apple, pear) = (&photos()[0].jpeg, &photos()[9].jpeg);
    file("apple.jpg", apple);
    file("pear.jpg", pear);
    file("cut.jpg", &apple[..apple.len() / 2]);
    file("huge.png", HUGE_PNG);
    file("note.jpg", b"This is no picture.");
    fs_err::write(dir.join("secret.jpg"), pear).unwrap();
    let lines: Vec<&[u8]> = ROWS.iter().map(|(_, line)| *line).collect();
    file("rows.csv", &[b"id,title,image\n", &lines.join(&b"\n"[..])[..], b"\n"].concat());
}

/// What the page says of every row.
fn rows() -> Vec<[String; 3]> {
    let dir = tempfile::tempdir().unwrap();
    make_rows(dir.path());
    run(dir.path(), "curate shop/rows.csv --out data --quiet").expect(0);
    let lines = |name: &str| -> Vec<Value> {
        let text = fs_err::read_to_string(dir.path().join("data").join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (items, rejects) = (lines("items.jsonl"), lines("rejects.jsonl"));
    let describe = |(n, (what, line)): (usize, &(&str, &[u8]))| {
        let row = n as u64 + 2;
        let own: Vec<&Value> = rejects.iter().filter(|reject| reject["row"] == row).collect();
        let id = line.split(|b| *b == b',').next().unwrap();
        let item = items.iter().find(|item| item["id"].as_str().unwrap().as_bytes() == id);
        let fate = match item {
            _ if own.iter().any(|reject| reject["kept"] == false) => "rejected",
            None => panic!("{what}: neither kept nor rejected"),
            Some(item) if item["image"].is_null() => "kept without a picture",
            Some(item) if item["texts"].as_array().unwrap().is_empty() => "kept without a text",
            Some(_) => "kept",
        };
        let reasons = own.iter().map(|reject| {
            format!(
                "`{}`: {}",
                reject["kind"].as_str().unwrap(),
                reject["reason"].as_str().unwrap()
            )
        });
        [(*what).to_owned(), fate.to_owned(), reasons.collect::<Vec<_>>().join("; ")]
    };
    ROWS.iter().enumerate().map(describe).collect()
}

#[test]
fn bad_rows_cost_only_themselves() {
    let rows = rows();
    let fate = |part: &str| rows.iter().find(|row| row[0].contains(part)).unwrap()[1].as_str();
    assert_eq!(fate("nothing wrong"), "kept");
    for part in
        ["breaks off", "30,000", "not there", "really text", "network", "leads out", "absolute"]
    {
        assert_eq!(fate(part), "kept without a picture", "{part}");
    }
    assert_eq!(fate("a text but no picture"), "kept without a picture");
    assert_eq!(fate("a picture but no text"), "kept without a text");
    assert_eq!(fate("another id"), "kept");
    for part in ["neither", "an id", "row as before", "UTF-8", "too many", "quoting"] {
        assert_eq!(fate(part), "rejected", "{part}");
    }
}

/// A command that cannot do its work.
struct Case {
    what: &'static str,
    /// Makes what is wrong in a folder with `data`, `model`, `index`, `shop` and `recipe.toml`.
    make: fn(&Path),
    line: &'static str,
}

fn nothing(_: &Path) {}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs_err::write(dir.join(name), bytes).unwrap();
}

/// Cuts a file in half.
fn cut(dir: &Path, name: &str) {
    let bytes = fs_err::read(dir.join(name)).unwrap();
    write(dir, name, &bytes[..bytes.len() / 2]);
}

fn replace(dir: &Path, name: &str, from: &str, to: &str) {
    let text = fs_err::read_to_string(dir.join(name)).unwrap();
    assert!(text.contains(from), "{name} has `{from}`");
    write(dir, name, text.replacen(from, to, 1));
}

/// A folder with a file of somebody else.
fn foreign(dir: &Path, name: &str) {
    fs_err::create_dir_all(dir.join(name)).unwrap();
    write(dir, &format!("{name}/letter.txt"), PRECIOUS);
}

const PRECIOUS: &str = "somebody's letter";

const CATALOGUES: [Case; 8] = [
    Case {
        what: "a catalogue that is not there",
        make: nothing,
        line: "curate nowhere.csv --out new",
    },
    Case {
        what: "an empty catalogue",
        make: |d| write(d, "empty.csv", ""),
        line: "curate empty.csv --out new",
    },
    Case {
        what: "a catalogue with a header only",
        make: |d| write(d, "bare.csv", "id,title,image\n"),
        line: "curate bare.csv --out new",
    },
    Case {
        what: "a catalogue without a good row",
        make: |d| write(d, "bad.csv", "id,title,image\n1,,nowhere.jpg\n2,,\n"),
        line: "curate bad.csv --out new",
    },
    Case {
        what: "a catalogue in no known format",
        make: |d| write(d, "shop.bin", [0, 1, 2, 3, 255, 254]),
        line: "curate shop.bin --out new",
    },
    Case {
        what: "a column that is not there",
        make: nothing,
        line: "curate shop/products.csv --text titel --out new",
    },
    Case {
        what: "columns with unknown names",
        make: |d| write(d, "foo.csv", "foo,bar\n1,2\n"),
        line: "curate foo.csv --out new",
    },
    Case {
        what: "too few pairs to learn from",
        make: |d| write(d, "few.csv", "id,title\n1,Apple\n2,Pear\n"),
        line: "adapt few.csv --out new",
    },
];

const ARTEFACTS: [Case; 12] = [
    Case {
        what: "a dataset that is not there",
        make: nothing,
        line: "index nowhere --model model --out new",
    },
    Case {
        what: "a dataset whose items were changed",
        make: |d| replace(d, "data/items.jsonl", "train", "trial"),
        line: "index data --model model --out new",
    },
    Case {
        what: "a model that is not there",
        make: nothing,
        line: "eval --model nowhere --data data",
    },
    Case {
        what: "a dataset given as a model",
        make: nothing,
        line: "eval --model data --data data",
    },
    Case {
        what: "a model whose weights break off",
        make: |d| cut(d, "model/weights.safetensors"),
        line: "eval --model model --data data",
    },
    Case {
        what: "a model whose description breaks off",
        make: |d| cut(d, "model/spec.json"),
        line: "eval --model model --data data",
    },
    Case {
        what: "a model whose manifest is something else",
        make: |d| write(d, "model/manifest.json", "{}"),
        line: "eval --model model --data data",
    },
    Case { what: "an index that is not there", make: nothing, line: "search nowhere milk" },
    Case {
        what: "an index of another model",
        make: |d| {
            let manifest = fs_err::read_to_string(d.join("model/manifest.json")).unwrap();
            let at = manifest.find("\"fingerprint\": \"").unwrap() + 16;
            let other = format!("{}{}{}", &manifest[..at], "ab".repeat(32), &manifest[at + 64..]);
            write(d, "model/manifest.json", other);
        },
        line: "search index milk --model model",
    },
    Case {
        what: "an index whose items break off",
        make: |d| cut(d, "index/items.jsonl"),
        line: "search index milk --model model",
    },
    Case {
        what: "a query picture that is not there",
        make: nothing,
        line: "search index --image nowhere.jpg --model model",
    },
    Case {
        what: "a query picture that is really text",
        make: |d| write(d, "note.jpg", "This is no picture."),
        line: "search index --image note.jpg --model model",
    },
];

const CALLS: [Case; 8] = [
    Case { what: "an unknown command", make: nothing, line: "serach index milk" },
    Case { what: "no hits asked for", make: nothing, line: "search index milk -k 0" },
    Case {
        what: "a recipe that is no TOML",
        make: |d| write(d, "recipe.toml", "steps = = 5"),
        line: "train recipe.toml",
    },
    Case {
        what: "an unknown key in a recipe",
        make: nothing,
        line: "train recipe.toml --set train.stepps=5",
    },
    Case {
        what: "a value out of its range",
        make: nothing,
        line: "train recipe.toml --set train.task.batch=0",
    },
    Case {
        what: "more pairs per step than there are",
        make: nothing,
        line: "train recipe.toml --set train.task.batch=512",
    },
    Case {
        what: "an unknown key that a parameter's name should begin with",
        make: nothing,
        line: "train recipe.toml --set train.optimizer.lr_multipliers=[{prefix=\"picture.\",factor=0.1}]",
    },
    Case {
        what: "other settings than the run that is there was begun with",
        make: |d| drop(run(d, "train recipe.toml --out again").expect(0)),
        line: "train recipe.toml --out again --set train.schedule.peak_lr=0.5",
    },
];

const FOREIGN: [Case; 7] = [
    Case {
        what: "`curate`",
        make: |d| foreign(d, "taken"),
        line: "curate shop/products.csv --out taken",
    },
    Case {
        what: "`train`",
        make: |d| foreign(d, "taken/model"),
        line: "train recipe.toml --out taken",
    },
    Case {
        what: "`eval`",
        make: |d| foreign(d, "taken"),
        line: "eval --model model --data data --out taken",
    },
    Case {
        what: "`embed`",
        make: |d| foreign(d, "taken"),
        line: "embed data --model model --out taken",
    },
    Case {
        what: "`index`",
        make: |d| foreign(d, "taken"),
        line: "index data --model model --out taken",
    },
    Case {
        what: "`adapt`, in a folder of one of its artefacts",
        make: |d| foreign(d, "taken/dataset"),
        line: "adapt shop/products.csv --model model --out taken",
    },
    Case {
        what: "`index`, on a dataset",
        make: nothing,
        line: "index data --model model --out data",
    },
];

/// What the page says of a case: what, the command, what it says.
fn told(case: &Case) -> [String; 3] {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["shop", "data", "index"] {
        copy(&trained().join(name), &root.join(name));
    }
    copy(&trained().join("run/model"), &root.join("model"));
    write(root, "recipe.toml", recipe(2));
    (case.make)(root);
    let data = fs_err::read(root.join("data/manifest.json")).unwrap();
    let letters = letters(root);
    let args: Vec<&str> = case.line.split(' ').chain(["--quiet"]).collect();
    let ran = conjoin(root, &args).expect(2);
    assert_eq!(ran.out, "", "{}", case.what);
    assert!(ran.err.starts_with("error: "), "{}: {}", case.what, ran.err);
    let leftover =
        names(root).into_iter().find(|name| name.contains("staging") || name == "new/model");
    assert_eq!(leftover, None, "{}", case.what);
    assert_eq!(self::letters(root), letters, "{}: a letter is gone", case.what);
    assert!(fs_err::read(root.join("data/manifest.json")).unwrap() == data, "{}", case.what);
    let err = ran.err.split("\n\nUsage").next().unwrap().split("\n\nFor more").next().unwrap();
    let lines: Vec<&str> = err.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    [case.what.to_owned(), format!("`conjoin {}`", case.line), without_hashes(&lines.join("<br>"))]
}

/// How many letters of somebody else are there and whole.
fn letters(folder: &Path) -> usize {
    let count = |name: String| {
        let path = folder.join(&name);
        if path.is_dir() {
            letters(&path)
        } else {
            usize::from(name == "letter.txt" && fs_err::read_to_string(path).unwrap() == PRECIOUS)
        }
    };
    names(folder).into_iter().map(count).sum()
}

/// Hashes follow the weights and are not the same on every machine.
fn without_hashes(text: &str) -> String {
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let short = |word: &str| {
        let hash = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_hash = hash.len() >= 12
            && hash.chars().all(|c| c.is_ascii_hexdigit())
            && !hash.chars().all(|c| c.is_ascii_digit());
        if is_hash { word.replacen(hash, "HASH", 1) } else { word.to_owned() }
    };
    words.map(short).collect()
}

fn table(page: &mut String, heads: [&str; 3], rows: &[[String; 3]]) {
    writeln!(page, "\n| {} |\n|---|---|---|", heads.join(" | ")).unwrap();
    for row in rows {
        writeln!(page, "| {} |", row.each_ref().map(|cell| cell.replace('|', "\\|")).join(" | "))
            .unwrap();
    }
}

#[test]
fn the_page_tells_what_happens() {
    let mut page = "# What becomes of bad input\n\n\
        This page is written by the tests of `crates/cli/tests/cli/bad_input.rs` from what the program does.\n\n\
        ## Rows of a catalogue\n\n\
        A bad row costs itself, a bad picture only the picture; the run goes on and ends with exit code 0. Every \
        remark stands in the dataset's `rejects.jsonl` with input, row, id, a stable word, and whether the row was kept.\n"
        .to_owned();
    table(&mut page, ["wrong in the row", "the row is", "remark"], &rows());
    let mut section = |title: &str, text: &str, cases: &[Case]| {
        write!(page, "\n## {title}\n\n{text}\n").unwrap();
        let rows: Vec<[String; 3]> = cases.iter().map(told).collect();
        table(&mut page, ["given", "command", "says"], &rows);
    };
    section("Catalogues", "Exit code 2; no half-made dataset is left.", &CATALOGUES);
    section("Datasets, models, indexes", "Exit code 2.", &ARTEFACTS);
    section("Commands and recipes", "Exit code 2.", &CALLS);
    section(
        "Output folders that hold something else",
        "Exit code 2 before any work is done; nothing in the folder is touched. Replaced is only an empty folder or an \
         artefact of the same kind.",
        &FOREIGN,
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bad-input.md");
    if std::env::var_os("CONJOIN_BLESS").is_some() {
        fs_err::write(&path, &page).unwrap();
    }
    let stored = fs_err::read_to_string(&path).unwrap_or_default();
    for (line, stored) in page.lines().zip(stored.lines()) {
        assert_eq!(line, stored, "`CONJOIN_BLESS=1` writes the page anew");
    }
    assert_eq!(page.lines().count(), stored.lines().count());
}
