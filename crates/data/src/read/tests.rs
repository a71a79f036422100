//! Every reader: the same records of the same catalogue, and each way a row can be bad.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{
    record::ImageSource,
    testing::{gzip, jpeg, parquet_file, tar, write},
};

/// Everything a catalogue tells, as lines: `row|key|field=value|…|image` or `row! reason`.
fn told_with(path: &Path, limits: &Limits, image_column: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    let flow = read(path, limits, image_column, &mut |event| {
        match event {
            Event::Columns { names, ignored } => {
                lines.push(format!("columns {} ignored {}", names.join(","), ignored.join(",")));
            }
            Event::Record(record) => {
                let mut parts = vec![record.place.row.to_string()];
                parts.extend(record.key);
                parts.extend(record.fields.iter().map(|(n, v)| format!("{n}={v}")));
                parts.extend(record.image.map(|image| match image {
                    ImageSource::Bytes(bytes) => format!("{} bytes", bytes.len()),
                    ImageSource::File(path) => file_name(&path),
                }));
                lines.push(parts.join("|"));
            }
            Event::Reject(reject) => {
                let id = reject.id.map(|id| format!(" ({id})")).unwrap_or_default();
                lines.push(format!("{}!{id} {}", reject.place.row, reject.reason.sentence()));
            }
        }
        ControlFlow::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    lines
}

fn told(path: &Path) -> Vec<String> {
    told_with(path, &Limits::default(), None)
}

#[track_caller]
fn check(name: &str, content: impl AsRef<[u8]>, expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(told(&write(dir.path(), name, content)), expected);
}

fn fault(path: &Path) -> String {
    let error = read(path, &Limits::default(), None, &mut |_| ControlFlow::Continue(()));
    error.unwrap_err().kind.to_string()
}

#[test]
fn csv_reads_quotes_line_breaks_marks_and_delimiters() {
    check(
        "a.csv",
        "\u{feff}id,title\r\n1,\"red, \"\"warm\"\" shoe\"\r\n\r\n2,\"two\r\nlines\"\n3,5\" screen",
        &[
            "columns id,title ignored ",
            "2|id=1|title=red, \"warm\" shoe",
            "4|id=2|title=two\r\nlines",
            "6|id=3|title=5\" screen",
        ],
    );
    check("a.csv", "id;title\n1;a,b\n", &["columns id,title ignored ", "2|id=1|title=a,b"]);
    check("a.tsv", "id\ttitle\n1\ta,b\n", &["columns id,title ignored ", "2|id=1|title=a,b"]);
    check("a.csv.gz", gzip(b"id,title\n1,a\n"), &["columns id,title ignored ", "2|id=1|title=a"]);
}

#[test]
fn csv_a_broken_row_costs_itself_only() {
    check(
        "a.csv",
        "id,title\n1,\"never closed\n2,fine\n3,\"also fine\"\n4,\"bad\" end\n5,a,b\n6\n7,last\n",
        &[
            "columns id,title ignored ",
            "2! broken quoting in column 2",
            "3|id=2|title=fine",
            "4|id=3|title=also fine",
            "5! broken quoting in column 2",
            "6! the row has 3 fields, the header has 2",
            "7! the row has 1 fields, the header has 2",
            "8|id=7|title=last",
        ],
    );
    check(
        "a.csv",
        "id,title\n1,fine\n2,\"open to the end\n3,fine",
        &[
            "columns id,title ignored ",
            "2|id=1|title=fine",
            "3! broken quoting in column 2",
            "4|id=3|title=fine",
        ],
    );
}

#[test]
fn csv_bytes_that_are_not_utf8_cost_a_row() {
    check(
        "a.csv",
        b"id,title\n1,caf\xe9\n2,fine\n",
        &[
            "columns id,title ignored ",
            "2! field `title` is not UTF-8 (byte 4)",
            "3|id=2|title=fine",
        ],
    );
}

#[test]
fn csv_long_lines_and_fields_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(300);
    let text = format!("id,title\n1,{long}\n2,\"{}\"\n3,fine\n", "y".repeat(50));
    let path = write(dir.path(), "a.csv", text);
    let limits = Limits { line_bytes: 100, field_bytes: 40, ..Limits::default() };
    assert_eq!(
        told_with(&path, &limits, None)[1..],
        [
            "2! the line has more than 100 bytes",
            "3! field `title` has 50 bytes, the limit is 40",
            "4|id=3|title=fine"
        ]
    );
}

#[test]
fn csv_a_cut_off_gzip_costs_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..20_000).map(|i| format!("{i},title {}\n", i * 7919 % 10_007)).collect();
    let whole = gzip(format!("id,title\n{text}").as_bytes());
    let path = write(dir.path(), "a.csv.gz", &whole[..whole.len() / 2]);
    let lines = told(&path);
    assert!((1_000..20_000).contains(&lines.len()));
    assert!(lines.last().unwrap().contains("! the file is damaged from here on"), "{lines:?}");
}

#[test]
fn csv_headers_that_make_no_sense_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let kind = |content: &[u8]| fault(&write(dir.path(), "a.csv", content));
    assert_eq!(kind(b""), "the file is empty");
    assert_eq!(kind(b"a,b,a\n1,2,3\n"), "column `a` is there twice");
    assert_eq!(kind(b"a,\"b\n1,2\n"), "the header cannot be read: broken quoting in column 2");
    assert_eq!(kind(b"\xff\xfea\0,\0"), "the text is UTF-16, UTF-8 is needed");
}

proptest! {
    #[test]
    fn prop_csv_agrees_with_the_csv_crate(
        rows in prop::collection::vec(prop::collection::vec("[a-z\", \n\r;é]{0,8}", 3), 0..12),
    ) {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(["x", "y", "z"]).unwrap();
        rows.iter().for_each(|row| writer.write_record(row).unwrap());
        let bytes = writer.into_inner().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "a.csv", &bytes);
        let mut found: Vec<Vec<String>> = Vec::new();
        let flow = read(&path, &Limits::default(), None, &mut |event| {
            match event {
                Event::Record(r) => found.push(r.fields.into_iter().map(|(_, v)| v).collect()),
                Event::Reject(r) => panic!("rejected: {}", r.reason.sentence()),
                Event::Columns { .. } => {}
            }
            ControlFlow::Continue(())
        });
        prop_assert!(flow.unwrap().is_continue());
        prop_assert_eq!(found, rows);
    }

    #[test]
    fn prop_no_bytes_make_a_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        kind in 0_usize..5,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (name, start): (&str, &[u8]) = [
            ("a.csv", b"a,b\n".as_slice()),
            ("a.jsonl", b"{"),
            ("a.csv.gz", b"\x1f\x8b\x08"),
            ("a.tar", b""),
            ("a.parquet", b"PAR1"),
        ][kind];
        let path = write(dir.path(), name, [start, &bytes].concat());
        let _ = read(&path, &Limits::default(), None, &mut |_| ControlFlow::Continue(()));
    }
}

#[test]
fn jsonl_flattens_and_rejects_by_line() {
    check(
        "a.jsonl",
        "{\"title\":\"shoe\",\"n\":3,\"ok\":true,\"none\":null,\"tags\":[\"a\",\"b\"],\"o\":{\"x\":[1]}}\n\
         not json\n[1]\n\n{\"title\":\"last\"}",
        &[
            "1|n=3|o={\"x\":[1]}|ok=true|tags=a|tags=b|title=shoe",
            "2! not a JSON object: expected ident at line 1 column 2",
            "3! not a JSON object: invalid type: sequence, expected a map at line 1 column 0",
            "5|title=last",
        ],
    );
    check("a.ndjson.gz", gzip(b"{\"a\":1}\n"), &["1|a=1"]);
    check("a.unknown", "{\"a\":1}\n", &["1|a=1"]);
}

#[test]
fn jsonl_depth_length_and_encoding_cost_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
    let text = [deep.as_bytes(), b"\n{\"a\":\"\xff\"}\n{\"a\":\"[[[[[[\\\"[\"}\n"].concat();
    let limits = Limits { json_depth: 5, ..Limits::default() };
    let path = write(dir.path(), "a.jsonl", text);
    assert_eq!(
        told_with(&path, &limits, None),
        [
            "1! the JSON is nested more than 5 deep",
            "2! the line is not UTF-8 (byte 7)",
            "3|a=[[[[[[\"["
        ]
    );
}

#[test]
fn tar_gathers_samples_and_skips_the_rest() {
    let (one, two) = (jpeg(1), jpeg(2));
    let long = format!("{}/k3.png", "d".repeat(150));
    let bytes = tar(&[
        ("k1.jpg", &one),
        ("k1.json", b"{\"title\":\"shoe\"}"),
        ("k1.npy", b"..."),
        ("._k1.jpg", b"resource fork"),
        ("dir/k2.JPEG", &two),
        ("dir/k2.txt", b"a hat"),
        (&long, &one),
        ("k4.json", b"{\"title\":"),
        ("k5.txt", b"no picture"),
    ]);
    let expected = [
        format!("1|k1|title=shoe|{} bytes", one.len()),
        format!("2|dir/k2|text=a hat|{} bytes", two.len()),
        format!("3|{}/k3|{} bytes", "d".repeat(150), one.len()),
        "4! (k4) not a JSON object: EOF while parsing a value at line 1 column 9".to_owned(),
        "5|k5|text=no picture".to_owned(),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check("a.tar", &bytes, &expected);
    check("a.tar.gz", gzip(&bytes), &expected);
    check("misnamed.csv", &bytes, &expected);
}

#[test]
fn tar_large_entries_and_a_cut_off_end_cost_their_samples() {
    let dir = tempfile::tempdir().unwrap();
    let big = vec![b'x'; 5_000];
    let bytes = tar(&[("a.txt", &big), ("b.txt", b"fine"), ("c.txt", b"fine"), ("d.txt", &big)]);
    let limits = Limits { entry_bytes: 4_000, ..Limits::default() };
    let path = write(dir.path(), "a.tar", &bytes);
    assert_eq!(
        told_with(&path, &limits, None),
        [
            "1! (a) entry `a.txt` has 5000 bytes, the limit is 4000",
            "2|b|text=fine",
            "3|c|text=fine",
            "4! (d) entry `d.txt` has 5000 bytes, the limit is 4000",
        ]
    );
    let cut = bytes.len() - 1024 - 5_120 + 100;
    let lines = told(&write(dir.path(), "cut.tar", &bytes[..cut]));
    assert_eq!(lines.len(), 4);
    assert!(lines[3].starts_with("4! (d) the file is damaged from here on"), "{}", lines[3]);
    let mut flipped = bytes.clone();
    flipped[5_632 + 3] ^= 0xff; // the header of b.txt
    let lines = told(&write(dir.path(), "flipped.tar", &flipped));
    assert!(lines.last().unwrap().contains("damaged from here on"), "{lines:?}");
}

#[test]
fn parquet_reads_each_kind_of_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    parquet_file(&path, &[b"shoe", b"caf\xe9"]);
    assert_eq!(
        told(&path),
        [
            "columns id,title,price,ok,stock,tags,image ignored cost",
            "1|id=1|title=shoe|price=1.5|ok=true|stock=4294967295|tags=a|tags=b|7 bytes",
            "2|id=2|title=hat|ok=false|stock=7|image=b.jpg",
            "3! field `title` is not UTF-8 (byte 4)",
            "4|id=4|title=hat|ok=false|stock=7|image=b.jpg",
        ]
    );
    let other = told_with(&path, &Limits::default(), Some("photo"));
    assert!(other[0].contains("ignored cost,image.bytes"), "{}", other[0]);
}

#[test]
fn parquet_damage_costs_rows_or_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    parquet_file(&path, &[b"shoe", b"coat"]);
    let whole = fs_err::read(&path).unwrap();
    let cut = write(dir.path(), "cut.parquet", &whole[..whole.len() - 10]);
    assert_eq!(fault(&cut), "not a readable Parquet file");
    // The first page header is right behind the magic.
    let mut flipped = whole.clone();
    flipped[4..12].fill(0xff);
    let lines = told(&write(dir.path(), "flipped.parquet", &flipped));
    assert!(lines[1].starts_with("1! the next 2 rows cannot be read"), "{}", lines[1]);
    assert!(lines[2].starts_with("3|id=3|title=coat"), "{}", lines[2]);
}

#[test]
fn folder_of_pictures_with_sidecars() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b/2.png", b"x");
    write(dir.path(), "b/2.txt", b"a hat");
    write(dir.path(), "a.jpg", b"x");
    write(dir.path(), "a.json", b"{\"title\":\"shoe\"}");
    write(dir.path(), "c.gif", b"x");
    write(dir.path(), "c.txt", b"\xff");
    write(dir.path(), ".hidden.jpg", b"x");
    assert_eq!(
        told(dir.path()),
        [
            "1|a|title=shoe|a.jpg",
            "2|b/2|text=a hat|folder=b|2.png",
            "3! (c) the text is not UTF-8 (byte 1)"
        ]
    );
}

#[test]
fn folder_prefers_metadata_then_shards_then_pictures_then_catalogues() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "2.jsonl", "{\"a\":2}");
    write(dir.path(), "1.csv", "a\n1\n");
    assert_eq!(told(dir.path()), ["columns a ignored ", "2|a=1", "1|a=2"]);
    write(dir.path(), "x.jpg", b"x");
    assert_eq!(told(dir.path()), ["1|x|x.jpg"]);
    write(dir.path(), "s-1.tar", tar(&[("k2.txt", b"two")]));
    write(dir.path(), "s-0.tar.gz", gzip(&tar(&[("k1.txt", b"one")])));
    assert_eq!(told(dir.path()), ["1|k1|text=one", "1|k2|text=two"]);
    write(dir.path(), "metadata.csv", "file_name,text\nx.jpg,hat\n");
    assert_eq!(told(dir.path()), ["columns file_name,text ignored ", "2|file_name=x.jpg|text=hat"]);
}

#[test]
fn unknown_formats_are_told_what_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let expected = format!("unknown format; accepted are {ACCEPTED}");
    assert_eq!(fault(&write(dir.path(), "a/data.xlsx", b"PK\x03\x04")), expected);
    assert_eq!(fault(&dir.path().join("a")), expected);
    assert!(fault(&dir.path().join("absent")).contains("No such file"));
}

#[test]
fn a_sink_that_has_enough_ends_the_reading() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = fs_err::File::create(dir.path().join("a.jsonl")).unwrap();
    (0..100).for_each(|i| writeln!(file, "{{\"a\":{i}}}").unwrap());
    let mut n = 0;
    let flow = read(&dir.path().join("a.jsonl"), &Limits::default(), None, &mut |_| {
        n += 1;
        if n == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(flow.unwrap().is_break());
    assert_eq!(n, 3);
}
