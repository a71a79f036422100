//! Real text pairs and judgements give the rows that another reader counts.

use std::{
    collections::{HashMap, HashSet},
    io::Read,
    path::{Path, PathBuf},
};

use conjoin_core::Seed;
use conjoin_data::{
    ColumnName, Judged, JudgedColumns, JudgedRow, JudgedRule, Limits, PairColumns, PairFile,
};

/// Where a file or folder of the larger public data would be.
fn shared(path: &str) -> PathBuf {
    let shared = std::env::var_os("CONJOIN_SHARED").map(PathBuf::from);
    shared
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"))
        .join("data")
        .join(path)
}

/// All records as the `csv` crate reads them.
fn records(path: &Path) -> Vec<Vec<String>> {
    let bytes = fs_err::read(path).expect("the file is there");
    let mut plain = Vec::new();
    if path.extension().is_some_and(|end| end == "gz") {
        flate2::read::MultiGzDecoder::new(bytes.as_slice())
            .read_to_end(&mut plain)
            .expect("the file is whole");
    } else {
        plain = bytes;
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(plain.as_slice());
    reader.records().map(|row| row.expect("a record").iter().map(str::to_owned).collect()).collect()
}

#[test]
fn the_sentence_pairs_are_read_as_another_reader_does() {
    let position = ColumnName::Position;
    let columns =
        PairColumns { grade: Some(position(2)), ..PairColumns::new(position(0), position(1)) };
    for language in ["en", "de", "zh"] {
        let path = shared(&format!("stsb/stsb-{language}-train.csv.gz"));
        if !path.exists() {
            eprintln!("skipped: no {}", path.display());
            return;
        }
        let expected = records(&path);
        assert_eq!(expected.len(), 5749);
        let file = PairFile::open(&path, &columns, None, &Limits::default()).unwrap();
        assert_eq!((file.len(), file.rejects().n()), (expected.len(), 0));
        for (row, expected) in expected.iter().enumerate() {
            let row = file.read(row).unwrap();
            assert_eq!([row.query, row.document], [expected[0].trim(), expected[1].trim()]);
            assert_eq!(row.grade, Some(expected[2].parse().unwrap()));
        }
    }
}

/// Prints the times of opening and of a row.
#[test]
fn the_shop_judgements_give_the_counted_rows() {
    let judgements = shared("homedepot/judgments-train.csv");
    if !judgements.exists() {
        eprintln!("skipped: no {}", judgements.display());
        return;
    }
    let items = shared("homedepot/products.csv");
    if !items.exists() {
        eprintln!("skipped: no {}", items.display());
        return;
    }
    let rule = JudgedRule { positive_from: 2.5, negative_below: 2.0, n_negatives: 7 };
    let columns = JudgedColumns {
        query: "query".into(),
        item: "product_id".into(),
        grade: "relevance".into(),
        item_id: "product_id".into(),
        item_text: vec!["title".into()],
    };
    let start = std::time::Instant::now();
    let judged = Judged::open(&judgements, &items, &columns, &rule, &Limits::default()).unwrap();
    eprintln!("opened in {:.2} s", start.elapsed().as_secs_f64());

    let titles: HashMap<String, String> =
        records(&items).into_iter().skip(1).map(|row| (row[0].clone(), row[1].clone())).collect();
    let normal = |text: &str| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut grades: HashMap<(String, String), Vec<f64>> = HashMap::new();
    for row in records(&judgements).into_iter().skip(1) {
        assert!(titles.contains_key(&row[1]));
        grades.entry((normal(&row[0]), row[1].clone())).or_default().push(row[2].parse().unwrap());
    }
    let mean = |all: &Vec<f64>| (all.iter().sum::<f64>() / all.len() as f64) as f32;
    let queries: HashSet<&String> = grades.keys().map(|(query, _)| query).collect();
    assert_eq!(judged.len(), grades.values().filter(|all| mean(all) >= 2.5).count());
    assert_eq!((judged.n_items(), judged.n_queries()), (titles.len(), queries.len()));
    assert_eq!(judged.rejects().n(), 0);

    let start = std::time::Instant::now();
    let rows = (0..judged.len()).step_by(7).map(|row| judged.read(row, Seed(7)).unwrap());
    let rows: Vec<JudgedRow> = rows.collect();
    let micros = start.elapsed().as_secs_f64() * 1e6 / rows.len() as f64;
    eprintln!("{micros:.0} us a row");
    for row in rows {
        let grade = |id: &String| grades.get(&(normal(&row.query), id.clone())).map(mean);
        assert_eq!(row.document, titles[&row.document_id].trim());
        assert_eq!(grade(&row.document_id), Some(row.grade));
        assert_eq!(row.negatives.len(), rule.n_negatives);
        let of_negatives: Vec<Option<f32>> = row.negative_ids.iter().map(grade).collect();
        assert!(of_negatives.iter().flatten().all(|grade| *grade < rule.negative_below));
        assert!(of_negatives.is_sorted_by_key(Option::is_none), "judged ones come first");
        assert!(row.negatives.iter().all(|text| normal(text) != normal(&row.document)));
    }
}
