//! Files of pairs: the same rows again by number, and each way a row or a file can be bad.

use proptest::prelude::*;

use super::*;
use crate::testing::{gzip, parquet_file, write};

fn name(name: &str) -> ColumnName {
    name.into()
}

fn pair() -> PairColumns {
    PairColumns::new(name("q"), name("d"))
}

/// Columns of a file with everything.
fn full() -> PairColumns {
    PairColumns {
        negatives: vec![name("n")],
        grade: Some(name("g")),
        scores: vec![name("s")],
        group: Some(name("group")),
        ..pair()
    }
}

fn positions() -> PairColumns {
    let grade = Some(ColumnName::Position(2));
    PairColumns { grade, ..PairColumns::new(ColumnName::Position(0), ColumnName::Position(1)) }
}

fn open_with(
    file: &str,
    content: impl AsRef<[u8]>,
    columns: &PairColumns,
    limits: &Limits,
) -> Result<PairFile, TextFileError> {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), file, content);
    PairFile::open(&path, columns, None, limits)
}

fn open(file: &str, content: impl AsRef<[u8]>, columns: &PairColumns) -> PairFile {
    open_with(file, content, columns, &Limits::default()).unwrap()
}

fn fault(file: &str, content: impl AsRef<[u8]>, columns: &PairColumns) -> String {
    let error = open_with(file, content, columns, &Limits::default()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read training texts `"));
    error.kind.to_string()
}

/// Rows as `id|query|document|negatives|grade|scores|group`, read backwards.
fn rows(file: &PairFile) -> Vec<String> {
    let row = |row: usize| {
        let row = file.read(row).unwrap();
        let mut parts = vec![row.id, row.query, row.document, row.negatives.join("+")];
        parts.push(row.grade.map(|grade| grade.to_string()).unwrap_or_default());
        parts.push(row.scores.iter().map(f32::to_string).collect::<Vec<_>>().join("+"));
        parts.push(row.group.unwrap_or_default());
        parts.join("|").trim_end_matches('|').to_owned()
    };
    let mut rows: Vec<String> = (0..file.len()).rev().map(row).collect();
    rows.reverse();
    rows
}

fn rejects(file: &PairFile) -> Vec<String> {
    let rejects = file.rejects().first().iter();
    rejects.map(|reject| format!("{}! {}", reject.place.row, reject.reason.sentence())).collect()
}

#[test]
fn tables_are_read_with_quotes_line_breaks_and_marks() {
    let text = "\u{feff}q,d,more\r\n a ,b,x\r\n\r\n\"two\r\nlines\",\"say \"\"hi\"\", you\",x\n\
                c,d,x\ne,f,x";
    let expected =
        ["a.csv:2|a|b", "a.csv:4|two\r\nlines|say \"hi\", you", "a.csv:6|c|d", "a.csv:7|e|f"];
    assert_eq!(rows(&open("a.csv", text, &pair())), expected);
    let zipped = expected.map(|row| row.replace("a.csv", "a.csv.gz"));
    assert_eq!(rows(&open("a.csv.gz", gzip(text.as_bytes()), &pair())), zipped);
    assert_eq!(rows(&open("a.tsv", "d\tq\nb,\ta;\n", &pair())), ["a.tsv:2|a;|b,"]);
    assert_eq!(rows(&open("a.csv", "d;q\nb,c;a\n", &pair())), ["a.csv:2|a|b,c"]);
}

#[test]
fn tables_without_a_header_are_read_by_position() {
    let text = "A plane.,\"An air, plane.\",5.0\nA man.,A woman.,0.25\n";
    let expected = ["a.csv:1|A plane.|An air, plane.||5", "a.csv:2|A man.|A woman.||0.25"];
    assert_eq!(rows(&open("a.csv", text, &positions())), expected);
    assert_eq!(rows(&open("a.csv", "a, b;c;1\n", &positions())), ["a.csv:1|a, b|c||1"]);
    assert_eq!(rows(&open("a.tsv", "a,b\tc;\t1\n", &positions())), ["a.tsv:1|a,b|c;||1"]);
    let ragged = open("a.csv", "\"open\na,b,1\nc,d\ne,f,2\n", &positions());
    assert_eq!(rows(&ragged), ["a.csv:2|a|b||1", "a.csv:4|e|f||2"]);
    assert_eq!(
        rejects(&ragged),
        ["1! broken quoting in column 1", "3! the row has 2 fields, the header has 3"]
    );
}

#[test]
fn json_lines_hold_lists_of_negatives_and_scores() {
    let text = r#"{"q":"a","d":"b","n":["x"," ","y","z"],"s":[0.9,0.1,0.2,0.3,0.4],"g":3,"group":"k"}

{"q":"c","d":"d","n":["x","y","z"],"s":[1,2,3,4],"g":"2.5","group":null}
{"q":"e","d":"f","n":["x"],"s":[1,2],"g":1,"group":"k"}
"#;
    let two = PairColumns { n_negatives: Some(2), ..full() };
    let file = open("a.jsonl", text, &two);
    assert_eq!(
        rows(&file),
        ["a.jsonl:1|a|b|x+y|3|0.9+0.1+0.3|k", "a.jsonl:3|c|d|x+y|2.5|1+2+3"],
        "a blank negative takes its score with it"
    );
    assert_eq!(
        rejects(&file),
        ["4! the row has 1 negatives, 2 are needed (`n_negatives` sets the number)"]
    );
    assert_eq!(open("a.jsonl", text, &full()).n_negatives(), 3, "the first usable row's number");
    let one = PairColumns { n_negatives: Some(1), ..full() };
    assert_eq!(open("a.jsonl.gz", gzip(text.as_bytes()), &one).len(), 3);
    let none = PairColumns { n_negatives: Some(0), ..full() };
    assert_eq!(rows(&open("a.jsonl", text, &none))[2], "a.jsonl:4|e|f||1|1|k");
}

#[test]
fn tables_have_one_negative_a_column() {
    let columns = PairColumns {
        negatives: vec![name("n1"), name("n2")],
        scores: vec![name("s"), name("s1"), name("s2")],
        ..pair()
    };
    let text = "q,d,n1,n2,s,s1,s2\na,b,x,y,3,2,1\nc,d,,y,3,2,1\n";
    let file = open("a.csv", text, &columns);
    assert_eq!((rows(&file), file.n_negatives()), (vec!["a.csv:2|a|b|x+y||3+2+1".to_owned()], 2));
    let one = PairColumns { n_negatives: Some(1), ..columns.clone() };
    let expected = ["a.csv:2|a|b|x||3+2", "a.csv:3|c|d|y||3+1"];
    assert_eq!(rows(&open("a.csv", text, &one)), expected);
    let three = PairColumns { n_negatives: Some(3), ..columns.clone() };
    assert_eq!(
        fault("a.csv", text, &three),
        "`n_negatives` is 3, expected at most 2, the number of columns in `negatives`"
    );
    let few = PairColumns { scores: vec![name("s"), name("s1")], ..columns };
    assert_eq!(
        fault("a.csv", text, &few),
        "`scores` is 2 columns, expected 3: of the document, then of each negative"
    );
}

#[test]
fn parquet_is_unpacked_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    parquet_file(&path, &[b"shoe", b"caf\xe9"]);
    let columns = PairColumns {
        negatives: vec![name("tags")],
        n_negatives: Some(0),
        group: Some(name("stock")),
        ..PairColumns::new(name("id"), name("title"))
    };
    let open =
        |columns: &PairColumns, limits: &Limits| PairFile::open(&path, columns, None, limits);
    let file = open(&columns, &Limits::default()).unwrap();
    assert_eq!(
        rows(&file),
        ["a.parquet:1|1|shoe||||4294967295", "a.parquet:2|2|hat||||7", "a.parquet:4|4|hat||||7"]
    );
    assert_eq!(rejects(&file), ["3! field `title` is not UTF-8 (byte 4)"]);
    let two = PairColumns { n_negatives: None, ..columns.clone() };
    assert_eq!(
        rows(&open(&two, &Limits::default()).unwrap())[0],
        "a.parquet:1|1|shoe|a+b|||4294967295"
    );
    let other = PairColumns { group: Some(name("cost")), ..columns.clone() };
    let error = open(&other, &Limits::default()).unwrap_err().kind.to_string();
    assert!(error.starts_with("no column `cost` for the group"), "{error}");
    let limits = Limits { unpacked_bytes: 100, ..Limits::default() };
    let error = open(&columns, &limits).unwrap_err();
    assert!(matches!(error.kind, TextFileErrorKind::UnpackedTooLarge { limit: 100 }));
}

#[test]
fn a_bad_row_costs_itself_only() {
    let columns = PairColumns { grade: Some(name("g")), ..pair() };
    let limits = Limits { line_bytes: 200, field_bytes: 50, ..Limits::default() };
    let long = format!("{},b,1\n{},b,1\n", "x".repeat(60), "x".repeat(300));
    let text = [
        b"q,d,g\n ,b,1\na,,1\na,b,\na,b,good\na,b,nan\ncaf\xe9,b,1\na,b\n\"open,b,1\n".as_slice(),
        long.as_bytes(),
        b"last,b,-1e0\n",
    ];
    let file = open_with("a.csv", text.concat(), &columns, &limits).unwrap();
    assert_eq!(rows(&file), ["a.csv:12|last|b||-1"]);
    assert_eq!(
        rejects(&file),
        [
            "2! field `q` is blank",
            "3! field `d` is blank",
            "4! field `g` is blank",
            "5! field `g` is `good`, expected a number",
            "6! field `g` is `nan`, expected a number",
            "7! field `q` is not UTF-8 (byte 4)",
            "8! the row has 2 fields, the header has 3",
            "9! broken quoting in column 1",
            "10! field `q` has 60 bytes, the limit is 50",
            "11! the line has more than 200 bytes",
        ]
    );
    assert_eq!(file.rejects().n(), 10);
    assert_eq!(file.rejects().reasons()["blank_field"], 3);
}

#[test]
fn a_bad_record_costs_itself_only() {
    let text = "{\"q\":\"a\",\"d\":[\"b\",\"c\"]}\n{\"q\":{\"x\":1},\"d\":\"b\"}\n{\"d\":\"b\"}\n[1]\n\
                {\"q\":\"a\",\"d\":[\"only\"]}\n{\"q\":7,\"d\":true}\n{\"q\":\"a\",\"d\":[[1]]}";
    let file = open("a.jsonl", text, &pair());
    assert_eq!(rows(&file), ["a.jsonl:5|a|only", "a.jsonl:6|7|true"]);
    assert_eq!(
        rejects(&file),
        [
            "1! field `d` is a list, expected a text",
            "2! field `q` is an object, expected a text",
            "3! field `q` is blank",
            "4! not a JSON object: invalid type: sequence, expected a map at line 1 column 0",
            "7! field `d` is a list in a list, expected a text",
        ]
    );
    let text = "{\"q\":\"a\",\"d\":\"b\",\"n\":[],\"s\":[1]}\n\
                {\"q\":\"a\",\"d\":\"b\",\"n\":[\"x\"],\"s\":[1]}\n\
                {\"q\":\"a\",\"d\":\"b\",\"n\":\"x\",\"s\":[1,null]}\n\
                {\"q\":\"a\",\"d\":\"b\",\"n\":\"x\",\"s\":[1,2]}";
    let columns = PairColumns { group: None, grade: None, ..full() };
    let file = open("a.jsonl", text, &columns);
    assert_eq!(rows(&file), ["a.jsonl:4|a|b|x||1+2"]);
    assert_eq!(
        rejects(&file),
        [
            "1! the row has 0 negatives, 1 are needed (`n_negatives` sets the number)",
            "2! the row has 1 scores, 2 are needed: of the document, then of each negative",
            "3! field `s` is ``, expected a number",
        ]
    );
}

#[test]
fn of_many_rejects_the_first_are_kept_and_all_counted() {
    let bad: String = (0..500).map(|_| "a,\n").collect();
    let file = open("a.csv", format!("q,d\n{bad}a,b\n"), &pair());
    assert_eq!((file.len(), file.rejects().n()), (1, 500));
    assert_eq!(file.rejects().first().len(), Rejects::MAX_KEPT);
    assert_eq!(file.id(0), "a.csv:502");
}

#[test]
fn splits_are_taken_by_word() {
    let columns = PairColumns { split: Some(name("part")), ..pair() };
    let text = "q,d,part\na,b,train\nc,d,TEST\ne,f,nonsense\ng,,val\nh,i,dev\n";
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.csv", text);
    let of = |columns: &PairColumns, split| {
        PairFile::open(&path, columns, split, &Limits::default()).unwrap()
    };
    assert_eq!(rows(&of(&columns, Some(Split::Train))), ["a.csv:2|a|b"]);
    let val = of(&columns, Some(Split::Val));
    assert_eq!(rows(&val), ["a.csv:3|c|d", "a.csv:6|h|i"]);
    assert_eq!(
        rejects(&val),
        [
            "4! `nonsense` names no split (train, val, validation, dev or test)",
            "5! field `d` is blank"
        ]
    );
    assert_eq!(rejects(&of(&columns, Some(Split::Train))).len(), 1, "the val row is not looked at");
    assert_eq!(of(&columns, None).len(), 4);
    assert_eq!(of(&pair(), Some(Split::Val)).len(), 4, "without the column the file is one split");
    assert_ne!(val.fingerprint(), of(&columns, None).fingerprint());
}

#[test]
fn files_that_make_no_sense_are_errors() {
    let other = PairColumns::new(name("querry"), name("d"));
    let missing = "no column `querry` for the query, did you mean `query`?; found are query, d";
    assert_eq!(fault("a.csv", "query,d\na,b\n", &other), missing);
    let missing = "no column `querry` for the query, did you mean `query`?; found are d, query";
    assert_eq!(fault("a.jsonl", "{\"query\":1}\nx\n{\"d\":2}\n", &other), missing);
    assert_eq!(
        fault("a.csv", "a,b\n", &positions()),
        "no column `2` for the grade; found are 0, 1"
    );
    assert_eq!(
        fault("a.jsonl", "{}\n", &positions()),
        "the file's columns have names, one is given by position 2; give its name"
    );
    let mixed = PairColumns::new(name("q"), ColumnName::Position(1));
    assert_eq!(
        fault("a.csv", "q,d\n", &mixed),
        "column `q` is given by name and column 1 by position: name all (the file has a header) or \
         number all from 0 (it has none)"
    );
    assert_eq!(fault("a.csv", "", &pair()), "the file is empty");
    assert_eq!(fault("a.csv", "", &positions()), "the file is empty");
    assert_eq!(fault("a.csv", "q,d\n", &pair()), "no usable row among 0");
    assert_eq!(
        fault("a.csv", "q,d\na,\n,b\nx\n", &pair()),
        "no usable row among 3: 2 blank_field, 1 ragged_row"
    );
    assert_eq!(fault("a.jsonl", "x\ny\n", &pair()), "no usable row among 2: 2 bad_json");
    assert_eq!(fault("a.parquet", "PAR1", &pair()), "not a readable Parquet file");
    let dir = tempfile::tempdir().unwrap();
    let of = |path: &Path| PairFile::open(path, &pair(), None, &Limits::default()).unwrap_err();
    assert!(of(dir.path()).kind.to_string().starts_with("it is a folder; accepted are .csv"));
    assert!(of(&dir.path().join("no.csv")).kind.to_string().contains("No such file"));
}

#[test]
fn columns_are_names_or_numbers_and_nothing_else() {
    let read = |text: &str| serde_json::from_str::<PairColumns>(text);
    let columns = read(r#"{"query":0,"document":1,"grade":2}"#).unwrap();
    assert_eq!(columns, positions());
    assert_eq!(read(r#"{"query":"q","document":"d"}"#).unwrap(), pair());
    let error = read(r#"{"query":-1,"document":"d"}"#).unwrap_err();
    assert!(error.to_string().starts_with("a column's name, or its position from 0"), "{error}");
    assert!(read(r#"{"query":"q","document":"d","negative":"n"}"#).is_err());
}

#[test]
fn a_file_that_unpacks_beyond_the_limit_is_refused() {
    let bomb = gzip(&[b"q,d\n".as_slice(), &b"a,b\n".repeat(1_000_000)].concat());
    assert!(bomb.len() < 100_000);
    let limits = Limits { unpacked_bytes: 1_000_000, ..Limits::default() };
    let error = open_with("a.csv.gz", &bomb, &pair(), &limits).unwrap_err();
    assert!(matches!(error.kind, TextFileErrorKind::UnpackedTooLarge { limit: 1_000_000 }));
    assert!(error.kind.to_string().contains("raise the limit `unpacked_bytes`"));
    let limits = Limits { unpacked_bytes: 4_000_004, ..Limits::default() };
    assert_eq!(open_with("a.csv.gz", &bomb, &pair(), &limits).unwrap().len(), 1_000_000);
}

#[test]
fn a_cut_off_gzip_costs_the_rest() {
    let text: String = (0..20_000).map(|i| format!("{i},title {}\n", i * 7919 % 10_007)).collect();
    let whole = gzip(format!("q,d\n{text}").as_bytes());
    let file = open("a.csv.gz", &whole[..whole.len() / 2], &pair());
    assert!((1_000..20_000).contains(&file.len()));
    let last = file.read(file.len() - 1).unwrap();
    let n: usize = last.query.parse().unwrap();
    assert_eq!((n, last.document), (file.len() - 1, format!("title {}", n * 7919 % 10_007)));
    assert!(rejects(&file)[0].contains("the file is damaged from here on"));
    assert_eq!(file.rejects().n(), 1);
}

#[test]
fn a_file_changed_after_opening_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.csv", "q,d\nab,b\ncd,d\n");
    let file = PairFile::open(&path, &pair(), None, &Limits::default()).unwrap();
    write(dir.path(), "a.csv", "q,d\nxy,b\ncd,d\n");
    let error = file.read(0).unwrap_err();
    assert_eq!(error.to_string(), "cannot read row 0 of `a.csv`");
    assert!(matches!(error.kind, TextRowErrorKind::Changed));
    assert_eq!(file.read(1).unwrap().query, "cd");
    assert_eq!(file.read(2).unwrap_err().kind.to_string(), "there are 2 rows, counted from 0");
    write(dir.path(), "a.csv", "q,d\n");
    assert!(matches!(file.read(0).unwrap_err().kind, TextRowErrorKind::Io(_)));
}

#[test]
fn the_fingerprint_follows_content_and_columns() {
    let of =
        |text: &str, columns: &PairColumns| open("a.csv", text, columns).fingerprint().to_owned();
    let text = "q,d,g\na,b,1\n";
    assert_eq!(of(text, &pair()), of(text, &pair()));
    assert_ne!(of(text, &pair()), of("q,d,g\na,c,1\n", &pair()));
    let graded = PairColumns { grade: Some(name("g")), ..pair() };
    assert_ne!(of(text, &pair()), of(text, &graded));
}

#[test]
fn aspects_are_equal_for_equal_texts_and_groups() {
    let columns = PairColumns { group: Some(name("group")), ..pair() };
    let text = "q,d,group\nRed  Shoe,x,1\nred shoe,y,\nblue,red shoe,1\ngreen,z,\n";
    let file = open("a.csv", text, &columns);
    let Aspects { queries, documents, groups } = file.aspects();
    assert_eq!((queries[0], queries[0]), (queries[1], documents[2]));
    assert!(queries[2] != queries[3] && documents[0] != documents[1]);
    assert_eq!(groups[0], groups[2]);
    assert!(groups[1] != groups[3] && groups[1] != groups[0]);
    assert_eq!(file.aspects().all().len(), 3);
    assert_eq!(open("a.csv", text, &pair()).aspects().all().len(), 2);
}

#[test]
fn rows_are_read_from_many_threads() {
    let text: String = (0..300).map(|i| format!("q{i},\"d\n{i}\"\n")).collect();
    let file = open("a.csv.gz", gzip(format!("q,d\n{text}").as_bytes()), &pair());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let file = &file;
            scope.spawn(move || {
                for i in (0..300).map(|i| (i * 7 + thread * 31) % 300) {
                    let row = file.read(i).unwrap();
                    assert_eq!((row.query, row.document), (format!("q{i}"), format!("d\n{i}")));
                    assert_eq!(row.id, format!("a.csv.gz:{}", 2 + 2 * i));
                }
            });
        }
    });
}

proptest! {
    #[test]
    fn prop_rows_agree_with_the_csv_crate(
        texts in prop::collection::vec(prop::collection::vec("x[a-z\", \n\r;é]{0,8}x", 3), 1..12),
    ) {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(["q", "n", "d"]).unwrap();
        texts.iter().for_each(|row| writer.write_record(row).unwrap());
        let columns = PairColumns { negatives: vec![name("n")], ..pair() };
        let file = open("a.csv", writer.into_inner().unwrap(), &columns);
        prop_assert_eq!(file.len(), texts.len());
        for (i, text) in texts.iter().enumerate() {
            let row = file.read(i).unwrap();
            prop_assert_eq!([&row.query, &row.negatives[0], &row.document], [&text[0], &text[1], &text[2]]);
        }
    }

    #[test]
    fn prop_no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0_usize..3,
        by_position in any::<bool>(),
    ) {
        let (file, start): (&str, &[u8]) = [
            ("a.csv", b"q,d,g\n".as_slice()),
            ("a.jsonl", b"{\"q\":"),
            ("a.csv.gz", b"\x1f\x8b\x08"),
        ][kind];
        let columns = if by_position { positions() } else { pair() };
        let opened = open_with(file, [start, &bytes].concat(), &columns, &Limits::default());
        if let Ok(file) = opened {
            for row in 0..file.len() {
                file.read(row).unwrap();
            }
        }
    }
}
