//! Rows of judgements: which negatives may come, in which order, and that they repeat.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::testing::{gzip, write};

fn columns() -> JudgedColumns {
    JudgedColumns {
        query: "query".into(),
        item: "item".into(),
        grade: "grade".into(),
        item_id: "id".into(),
        item_text: vec!["title".into(), "note".into()],
    }
}

fn rule(n_negatives: usize) -> JudgedRule {
    JudgedRule { positive_from: 2.5, negative_below: 2.0, n_negatives }
}

/// A folder with both files.
struct Files(TempDir);

impl Files {
    fn new(judgements: &str, items: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "j.csv", judgements);
        write(dir.path(), "i.csv", items);
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn try_open(&self, rule: &JudgedRule) -> Result<Judged, TextFileError> {
        let limits = Limits::default();
        Judged::open(&self.path("j.csv"), &self.path("i.csv"), &columns(), rule, &limits)
    }

    fn open(&self, rule: &JudgedRule) -> Judged {
        self.try_open(rule).unwrap()
    }
}

fn rejects(judged: &Judged) -> Vec<String> {
    let rejects = judged.rejects().first().iter();
    rejects.map(|r| format!("{} {}! {}", r.place.input, r.place.row, r.reason.sentence())).collect()
}

/// Titles of a shop of shoes and hats; the last ones share no word with any query.
const ITEMS: &str = "id,title,note\n\
    s1,red shoe,\"soft, warm\"\ns2,blue shoe,\ns3,green shoe,\ns4,Red  Shoe,\"soft, warm\"\n\
    h1,red hat,\nh2,blue hat,\nx1,lamp,\nx2,table,\nx3,chair,\n";

#[test]
fn a_row_is_a_query_its_item_and_what_does_not_fit() {
    let files =
        Files::new("query,item,grade\nred shoe,s1,3\nred shoe,h2,1\nred shoe,s2,2\n", ITEMS);
    let judged = files.open(&rule(1));
    assert_eq!((judged.len(), judged.n_items(), judged.n_queries()), (1, 9, 1));
    let expected = JudgedRow {
        id: "j.csv:2".to_owned(),
        query: "red shoe".to_owned(),
        document: "red shoe. soft, warm".to_owned(),
        negatives: vec!["blue hat".to_owned()],
        grade: 3.0,
        document_id: "s1".to_owned(),
        negative_ids: vec!["h2".to_owned()],
    };
    assert_eq!(judged.read(0, Seed(0)).unwrap(), expected);
    assert_eq!(judged.read(0, Seed(1)).unwrap(), expected, "what was judged comes first");
    assert!(rejects(&judged).is_empty());
}

#[test]
fn judged_negatives_come_first_then_near_items_then_any() {
    let files = Files::new(
        "query,item,grade\nred shoe,s1,3\nred shoe,x1,1\nred shoe,x2,1.5\nred shoe,s2,2\n",
        ITEMS,
    );
    let judged = files.open(&rule(5));
    let mut orders = BTreeSet::new();
    for seed in 0..200 {
        let ids = judged.read(0, Seed(seed)).unwrap().negative_ids;
        let set = |ids: &[String]| ids.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(set(&ids[..2]), set(&["x1".to_owned(), "x2".to_owned()]));
        // s2 fits well enough, s4 has the text of s1: neither may come.
        assert_eq!(set(&ids[2..4]), set(&["s3".to_owned(), "h1".to_owned()]));
        assert!(["h2", "x3"].contains(&ids[4].as_str()), "{ids:?}");
        orders.insert(ids);
    }
    assert_eq!(orders.len(), 8, "every order comes up");
}

#[test]
fn the_nearest_thirty_are_drawn_from() {
    let mut items = "id,title,note\np,red shoe,\n".to_owned();
    // The shorter the text, the nearer.
    (0..60).for_each(|i| items.push_str(&format!("n{i},red n{i}{},\n", " filler".repeat(i))));
    let files = Files::new("query,item,grade\nred shoe,p,3\nred shoe,n0,2\n", &items);
    let judged = files.open(&rule(3));
    let ids = (0..200).flat_map(|seed| judged.read(0, Seed(seed)).unwrap().negative_ids);
    let seen: BTreeSet<usize> = ids.map(|id| id[1..].parse().unwrap()).collect();
    assert_eq!(seen, (1..31).collect());
}

#[test]
fn judgements_of_one_query_and_item_are_averaged() {
    let files = Files::new(
        "query,item,grade\nred shoe,s1,3\nRED  shoe,s1,2\nred shoe,s2,1\nred shoe,s2,3.5\nhat,h1,3\n\
         hat,h1,1.5\nhat,s1,1\n",
        ITEMS,
    );
    let judged = files.open(&rule(1));
    assert_eq!((judged.len(), judged.n_queries()), (1, 2));
    let row = judged.read(0, Seed(3)).unwrap();
    assert_eq!((row.id.as_str(), row.document_id.as_str(), row.grade), ("j.csv:2", "s1", 2.5));
    assert_ne!(row.negative_ids, ["s2"], "2.25 on average is no negative");
}

#[test]
fn bad_rows_of_both_files_are_told() {
    let files = Files::new(
        "query,item,grade\nshoe,s1,3\nshoe,gone,3\n,s1,3\nshoe,s2,\nshoe,s2,good\nshoe,empty,1\nshoe\n",
        "id,title,note\ns1,red shoe,\nempty, ,\n,hat,\ns1,again,\ns2,blue shoe,\n",
    );
    let judged = files.open(&rule(1));
    assert_eq!((judged.len(), judged.n_items()), (1, 2));
    assert_eq!(
        rejects(&judged),
        [
            "i.csv 3! no text in the text columns",
            "i.csv 4! field `id` is blank",
            "i.csv 5! the id is already used by row 2 of `i.csv`",
            "j.csv 3! no usable row has item `gone`",
            "j.csv 4! field `query` is blank",
            "j.csv 5! field `grade` is blank",
            "j.csv 6! field `grade` is `good`, expected a number",
            "j.csv 7! no usable row has item `empty`",
            "j.csv 8! the row has 1 fields, the header has 3",
        ]
    );
    assert_eq!(judged.rejects().reasons()["unknown_item"], 2);
}

#[test]
fn queries_that_leave_too_few_negatives_make_no_rows() {
    let files = Files::new(
        "query,item,grade\nshoe,a,3\nshoe,b,2\nhat,a,3\n",
        "id,title,note\na,one,\nb,two,\nc,three,\nd,Three,\n",
    );
    let judged = files.open(&rule(2));
    assert_eq!(judged.read(0, Seed(0)).unwrap().query, "hat");
    assert_eq!(
        rejects(&judged),
        ["j.csv 2! the row has 1 negatives, 2 are needed (`n_negatives` sets the number)"]
    );
    let error = files.try_open(&rule(3)).unwrap_err();
    assert!(error.path.ends_with("j.csv"));
    assert_eq!(error.kind.to_string(), "no usable row among 2: 2 too_few_negatives");
    assert!(files.open(&rule(0)).read(1, Seed(0)).unwrap().negatives.is_empty());
}

#[test]
fn settings_and_files_that_make_no_sense_are_errors() {
    let files = Files::new("query,item,grade\nshoe,s1,3\n", ITEMS);
    let fault = |rule: &JudgedRule| files.try_open(rule).unwrap_err().kind.to_string();
    assert_eq!(
        fault(&JudgedRule { negative_below: 3.0, ..rule(1) }),
        "`negative_below` is 3, expected a number of at most `positive_from`, 2.5"
    );
    assert_eq!(
        fault(&JudgedRule { positive_from: f32::NAN, ..rule(1) }),
        "`positive_from` is NaN, expected a finite number"
    );
    assert_eq!(fault(&JudgedRule { positive_from: 3.5, ..rule(1) }), "no usable row among 0");
    let open = |columns: &JudgedColumns| {
        let (judgements, items) = (files.path("j.csv"), files.path("i.csv"));
        Judged::open(&judgements, &items, columns, &rule(1), &Limits::default()).unwrap_err()
    };
    let error = open(&JudgedColumns { item_id: "sku".into(), ..columns() });
    assert!(error.path.ends_with("i.csv"));
    assert_eq!(
        error.kind.to_string(),
        "no column `sku` for the item id; found are id, title, note"
    );
    let error = open(&JudgedColumns { item_text: vec![], ..columns() });
    assert_eq!(error.kind.to_string(), "`item_text` is empty, expected at least one column");
    let text = r#"{"positive_from":1,"negative_below":1,"n_negatives":1,"seed":1}"#;
    assert!(serde_json::from_str::<JudgedRule>(text).is_err());
}

#[test]
fn zipped_files_and_json_lines_give_the_same_rows() {
    let judgements = "query,item,grade\nred shoe,s1,3\nhat,h1,3\nhat,s1,1\n";
    let files = Files::new(judgements, ITEMS);
    write(files.0.path(), "j.csv.gz", gzip(judgements.as_bytes()));
    let items: String = ITEMS
        .lines()
        .skip(1)
        .map(|line| {
            let (id, rest) = line.split_once(',').unwrap();
            let (title, note) = rest.split_once(',').unwrap();
            let note = note.trim_matches('"');
            serde_json::json!({ "id": id, "title": title, "note": note }).to_string() + "\n"
        })
        .collect();
    write(files.0.path(), "i.jsonl", items);
    let (judgements, items) = (files.path("j.csv.gz"), files.path("i.jsonl"));
    let other = Judged::open(&judgements, &items, &columns(), &rule(4), &Limits::default());
    let (one, other) = (files.open(&rule(4)), other.unwrap());
    assert_ne!(one.fingerprint(), other.fingerprint());
    for row in 0..2 {
        let (mut one, other) = (one.read(row, Seed(5)).unwrap(), other.read(row, Seed(5)).unwrap());
        one.id = one.id.replace("j.csv", "j.csv.gz");
        assert_eq!(one, other);
    }
}

#[test]
fn rows_follow_from_files_rule_and_seed() {
    let files = Files::new("query,item,grade\nred shoe,s1,3\nhat,h1,3\n", ITEMS);
    let rows = |judged: &Judged, seed| -> Vec<JudgedRow> {
        (0..judged.len()).map(|row| judged.read(row, Seed(seed)).unwrap()).collect()
    };
    let (one, two) = (files.open(&rule(3)), files.open(&rule(3)));
    assert_eq!(one.fingerprint(), two.fingerprint());
    let seeds: Vec<Vec<JudgedRow>> = (0..10).map(|seed| rows(&one, seed)).collect();
    assert!((0..10).all(|seed| rows(&two, seed) == seeds[seed as usize]));
    assert!(seeds.iter().any(|rows| *rows != seeds[0]), "another seed, other negatives");
    assert_ne!(files.open(&rule(2)).fingerprint(), one.fingerprint());
    write(files.0.path(), "i.csv", ITEMS.replace("lamp", "lamb"));
    assert_ne!(files.open(&rule(3)).fingerprint(), one.fingerprint());
    let Aspects { queries, documents, groups } = one.aspects();
    assert_eq!((queries.len(), documents.len(), groups.len()), (2, 2, 0));
    assert_eq!(one.aspects().all().len(), 2);
}

#[test]
fn changed_items_and_absent_rows_are_told() {
    let files = Files::new("query,item,grade\nred shoe,s1,3\n", ITEMS);
    let judged = files.open(&rule(1));
    write(files.0.path(), "i.csv", ITEMS.replace("shoe", "boot"));
    let error = judged.read(0, Seed(0)).unwrap_err();
    assert_eq!(error.to_string(), "cannot read row 0 of `i.csv`");
    assert!(matches!(error.kind, TextRowErrorKind::Changed));
    assert!(matches!(
        judged.read(1, Seed(0)).unwrap_err().kind,
        TextRowErrorKind::NoRow { n_rows: 1 }
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn prop_no_negative_fits_its_query(
        texts in prop::collection::vec("[abc]( [abc]){0,2}", 1..25),
        grades in prop::collection::vec((0_usize..4, 0_usize..25, 0_u8..7), 1..60),
        n_negatives in 0_usize..6,
        seed in any::<u64>(),
    ) {
        let mut items = "id,title,note\n".to_owned();
        texts.iter().enumerate().for_each(|(i, text)| items.push_str(&format!("{i},{text},\n")));
        let mut judgements = "query,item,grade\n".to_owned();
        let mut sums: HashMap<(usize, usize), (f32, f32)> = HashMap::new();
        for (query, item, grade) in grades.iter().filter(|(_, item, _)| *item < texts.len()) {
            let grade = f32::from(*grade) / 2.0;
            judgements.push_str(&format!("a{query} b,{item},{grade}\n"));
            let sum = sums.entry((*query, *item)).or_default();
            *sum = (sum.0 + grade, sum.1 + 1.0);
        }
        let mean = |query: usize, item: usize| sums.get(&(query, item)).map(|(sum, n)| sum / n);
        let files = Files::new(&judgements, &items);
        let Ok(judged) = files.try_open(&rule(n_negatives)) else { return Ok(()) };
        for row in 0..judged.len() {
            let row = judged.read(row, Seed(seed)).unwrap();
            let query: usize = row.query[1..2].parse().unwrap();
            prop_assert_eq!(Some(row.grade), mean(query, row.document_id.parse().unwrap()));
            prop_assert!(row.grade >= 2.5);
            let fitting: Vec<&String> = (0..texts.len())
                .filter(|item| mean(query, *item).is_some_and(|grade| grade >= 2.0))
                .map(|item| &texts[item])
                .collect();
            prop_assert!(row.negatives.iter().all(|text| !fitting.contains(&text)));
            let different: BTreeSet<&String> = row.negatives.iter().collect();
            prop_assert_eq!((row.negatives.len(), different.len()), (n_negatives, n_negatives));
        }
    }
}
