//! Tests of `report`, `figures`, `plot` and the page.

use conjoin_core::{ArtifactErrorKind, Modality, Seed};

use super::*;
use crate::{
    Bootstrap, Calibration, Card, ExampleHit, Histogram, RankedCards, ScoreDistribution,
    ScoreSummary, compare, compare::tests::result, measure,
};

const PICTURE: &str = "data:image/png;base64,iVBORw0KGgo=";

/// A report in which every part is filled, with `text` wherever text goes.
fn full(text: &str) -> ReportParts {
    let own = || text.to_owned();
    let model = || ModelFacts { name: own(), fingerprint: own(), note: own() };
    let card = || Card { text: Some(own()), picture: Some(PICTURE.to_owned()) };
    let ranked = |first_rank| RankedCards {
        first_rank,
        hits: vec![
            ExampleHit { card: card(), score: 0.51, relevant: true },
            ExampleHit { card: card(), score: -0.2, relevant: false },
        ],
    };
    let mut before = result(text, &[1, 9, 30, 4, 17, 2, 60, 8]);
    before.n_uncounted = 3;
    let mut after = result(text, &[1, 2, 11, 4, 3, 5, 20, 1]);
    after.n_uncounted = 3;
    ReportParts {
        title: own(),
        summary: own(),
        before: Some(model()),
        after: model(),
        data: vec![Fact { name: own(), value: own() }],
        verdict: Some(GateVerdict { keep: true, sentence: own() }),
        comparison: compare(&[before], &[after], &Bootstrap::new(Seed(1))).unwrap(),
        curve: Some(TrainingCurve {
            steps: (1..=1200).collect(),
            loss: (1..=1200).map(|step| 3.0 / step as f32).collect(),
            learning_rate: vec![1e-4; 1200],
            evaluations: vec![EvaluationPoint { step: 600, name: own(), value: 0.4 }],
        }),
        examples: [(9, 2), (2, 5), (3, 3)]
            .map(|(was, is)| QueryExample {
                task: own(),
                query: card(),
                before: Some(ranked(was)),
                after: ranked(is),
            })
            .to_vec(),
        distributions: vec![DistributionComparison {
            task: own(),
            before: Some(distribution()),
            after: distribution(),
        }],
        timings: vec![Timing { name: own(), seconds: 12.5, items: Some(4_000) }],
        peak_memory_bytes: Some(1 << 30),
        reproduction: Reproduction {
            command: own(),
            config_hash: own(),
            seed: Some(7),
            inputs: BTreeMap::from([(own(), own())]),
            software: own(),
            machine: own(),
        },
    }
}

fn distribution() -> ScoreDistribution {
    let side = |mean: f32| ScoreSummary {
        n_pairs: 4,
        mean: f64::from(mean),
        quantiles: [f64::from(mean); 5],
        histogram: Histogram::new(&[mean - 0.1, mean, mean, mean + 0.1]),
    };
    ScoreDistribution {
        query_modality: Modality::Text,
        item_modality: Modality::Image,
        matching: side(0.3),
        other: side(0.1),
        auc: 0.9,
        calibration: Calibration { a: 20.0, b: -4.0 },
    }
}

fn page(parts: ReportParts) -> String {
    render_html(&Report::new(parts))
}

/// Every element is closed, in the right order. Enough of a parser for what `Markup` can write.
#[track_caller]
fn check_balance(page: &str) {
    const VOID: [&str; 3] = ["meta", "img", "!doctype"];
    let mut open: Vec<&str> = Vec::new();
    for piece in page.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').expect("a tag that ends");
        let name = tag.split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "closing `{tag}`"),
            None if tag.ends_with('/') || VOID.contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn hostile_text_stays_text() {
    let hostile = "</title></style></script><script>alert('x')</script><img src=x onerror=\"a()\">\
                   &amp;\u{0}\u{1b}[31m\u{202e}\" onload='b()' http://example.invalid";
    let page = page(full(hostile));
    check_balance(&page);
    assert!(!page.contains("<script"));
    assert!(!page.contains("<img src=x"));
    assert!(!page.contains("onerror=\""));
    assert!(!page.contains("onload='"));
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
    assert!(page.contains("&amp;amp;"));
    assert!(!page.contains(['\u{0}', '\u{1b}']));
}

#[test]
fn the_page_needs_nothing_else() {
    let page = page(full("plain"));
    check_balance(&page);
    assert!(page.contains("default-src 'none'"));
    for foreign in ["http:", "https:", "//", "@import", "url(", "<link", "<script", "<iframe"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for source in page.split("src=\"").skip(1) {
        assert!(source.starts_with("data:image/png;base64,"), "{}", &source[..40]);
    }
    assert!(page.len() < 200_000, "{} bytes", page.len());
}

#[test]
fn shows_only_bitmaps_from_data_uris() {
    for refused in [
        "https://example.invalid/a.png",
        "data:image/svg+xml;base64,AAAA",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,AA\"onerror=",
        "data:image/png;base64,",
        "data:image/png,AAAA",
        "javascript:a()",
    ] {
        let mut parts = full("plain");
        parts.examples.truncate(1);
        parts.examples[0].query.picture = Some(refused.to_owned());
        let shown = page(parts).matches("<img").count();
        assert_eq!(shown, 4, "{refused}: only the four pictures of the hits");
    }
}

#[test]
fn equal_reports_give_equal_pages() {
    assert_eq!(page(full("plain")), page(full("plain")));
}

#[test]
fn tells_both_sides_and_marks_what_is_relevant() {
    let page = page(full("plain"));
    for expected in [
        "Before",
        "After",
        "▲ Queries that won",
        "▼ Queries that lost",
        "✓ relevant",
        "3 queries without a relevant item are not counted",
        "even odds at a score of <b>0.20</b>",
        "1,000 resamples",
        "12.5 s",
        "1.00 GiB",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
}

#[test]
fn one_model_alone_has_no_before() {
    let mut parts = full("plain");
    parts.before = None;
    parts.verdict = None;
    parts.comparison = measure(&[result("t", &[1, 2, 30])], &Bootstrap::new(Seed(1)));
    parts.distributions[0].before = None;
    parts.examples.iter_mut().for_each(|example| example.before = None);
    let page = page(parts);
    check_balance(&page);
    assert!(!page.contains("Before"));
    assert!(!page.contains("Difference"));
    assert!(page.contains("Value"));
    assert!(!page.contains("Queries that") && !page.contains("losing"));
}

/// The least a report can be.
fn empty() -> ReportParts {
    ReportParts {
        before: None,
        data: Vec::new(),
        verdict: None,
        comparison: measure(&[], &Bootstrap::new(Seed(1))),
        curve: None,
        examples: Vec::new(),
        distributions: Vec::new(),
        timings: Vec::new(),
        peak_memory_bytes: None,
        reproduction: Reproduction::default(),
        ..full("")
    }
}

#[test]
fn odd_curves_and_empty_parts_are_drawn_without_a_fault() {
    check_balance(&page(empty()));
    let curve = |loss: &[f32], rates: usize, values: &[f64]| TrainingCurve {
        steps: (0..5).collect(),
        loss: loss.to_vec(),
        learning_rate: vec![0.0; rates],
        evaluations: values
            .iter()
            .map(|value| EvaluationPoint { step: 3, name: "x".to_owned(), value: *value })
            .collect(),
    };
    for curve in [
        curve(&[], 0, &[]),
        curve(&[1.0], 9, &[f64::NAN]),
        curve(&[f32::NAN; 5], 5, &[0.1]),
        curve(&[1.0, f32::NAN, f32::INFINITY, 2.0, 2.0, 7.0, 8.0], 2, &[5.0, -3.0]),
        curve(&[0.5; 5], 5, &[0.0, 0.0]),
        TrainingCurve { steps: vec![u64::MAX; 2], loss: vec![1e38, -1e38], ..curve(&[], 0, &[]) },
    ] {
        let page = page(ReportParts { curve: Some(curve), ..empty() });
        check_balance(&page);
        assert!(!page.contains("NaN") && !page.contains("inf "), "{page}");
    }
    let mut parts = full("plain");
    parts.distributions[0].after.matching.histogram.counts.clear();
    parts.distributions[0].after.other.histogram.counts = vec![0; 3];
    check_balance(&page(parts));
}

#[test]
fn write_then_read_is_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("report");
    let report = Report::new(full("a \"title\" with ünïcode"));
    let artifact = report.write(&target).unwrap();
    artifact.verify().unwrap();
    let names: Vec<&String> = artifact.manifest().files.keys().collect();
    assert_eq!(names, [HTML_FILE, JSON_FILE]);
    assert_eq!(artifact.manifest().seed, Some(7));
    assert_eq!(Report::read(&target).unwrap(), report);
    // A newer report may replace an older one.
    let newer = Report::new(full("newer"));
    newer.write(&target).unwrap();
    assert_eq!(Report::read(&target).unwrap(), newer);
}

#[test]
fn a_loss_that_is_no_number_survives_storing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("report");
    let mut parts = full("plain");
    parts.curve.as_mut().unwrap().loss[3] = f32::NAN;
    Report::new(parts).write(&target).unwrap();
    let read = Report::read(&target).unwrap();
    let loss = &read.parts().curve.as_ref().unwrap().loss;
    assert!(loss[3].is_nan() && loss[4] == 0.6);
}

#[test]
fn does_not_replace_what_is_no_report() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious.txt");
    fs::write(&precious, "keep me").unwrap();
    let error = Report::new(empty()).write(folder.path()).unwrap_err();
    let foreign = |error: ReportError| {
        let ReportErrorKind::Artifact(kind) = error.kind else { panic!("{error:?}") };
        assert!(matches!(kind, ArtifactErrorKind::Foreign { .. }), "{kind:?}");
    };
    foreign(error);
    let dataset = folder.path().join("dataset");
    ArtifactWriter::create(&dataset, "dataset")
        .unwrap()
        .commit(Manifest::new("dataset", 1))
        .unwrap();
    foreign(Report::new(empty()).write(&dataset).unwrap_err());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "keep me");
}

fn stored(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("report");
    let writer = ArtifactWriter::create(&target, FORMAT).unwrap();
    fs::write(writer.file(JSON_FILE), text).unwrap();
    writer.commit(Manifest::new(FORMAT, 1)).unwrap();
    (folder, target)
}

#[test]
fn opens_v1() {
    let (_folder, target) = stored(include_str!("tests/v1.json"));
    let report = Report::read(&target).unwrap();
    assert_eq!(report.version(), 1);
    let parts = report.parts();
    assert_eq!(parts.title, "first version");
    assert_eq!(parts.comparison.tasks[0].metrics.len(), 8);
    assert!(parts.curve.as_ref().unwrap().loss[1].is_nan());
    check_balance(&render_html(&report));
}

#[test]
fn refuses_newer_and_damaged_reports() {
    let text = include_str!("tests/v1.json");
    let (_folder, target) = stored(&text.replacen("\"version\": 1", "\"version\": 2", 1));
    let error = Report::read(&target).unwrap_err();
    assert_eq!(error.kind.to_string(), "report version 2, this build reads up to 1");
    for damaged in [&text[..text.len() / 2], "", &text.replacen("\"title\"", "\"titel\"", 1)] {
        let (_folder, target) = stored(damaged);
        let error = Report::read(&target).unwrap_err();
        assert!(matches!(error.kind, ReportErrorKind::Json(_)), "{error:?}");
    }
}

#[test]
fn figures_are_short_and_aligned() {
    for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(figures::count(n), text);
    }
    for (seconds, text) in [
        (0.035, "35 ms"),
        (4.21, "4.2 s"),
        (59.97, "1 min 00 s"),
        (83.0, "1 min 23 s"),
        (3599.6, "1 h 00 min"),
        (7_500.0, "2 h 05 min"),
        (f64::NAN, "–"),
    ] {
        assert_eq!(figures::duration(seconds), text);
    }
    for (n, text) in [(0, "0 B"), (512, "512 B"), (1536, "1.50 KiB"), (1 << 40, "1.00 TiB")] {
        assert_eq!(figures::bytes(n), text);
    }
    assert_eq!(figures::score(-0.204), "−0.20");
    assert_eq!(figures::score(-0.001), "0.00");
    assert_eq!(figures::significant(0.0001), "0.0001");
    assert_eq!(figures::significant(38.81), "38.8");
}

#[test]
fn ticks_are_round_and_inside() {
    let ticks = |low, high, n| plot::Scale::new((low, high), (0.0, 100.0)).ticks(n);
    let (values, digits) = ticks(0.87, 3.51, 5);
    assert_eq!((values, digits), (vec![1.0, 2.0, 3.0], 0));
    let (values, digits) = ticks(-0.4, 0.6, 5);
    assert_eq!(digits, 1);
    assert_eq!(values.len(), 6);
    assert!((values[2] - 0.0).abs() < 1e-12 && (values[5] - 0.6).abs() < 1e-12, "{values:?}");
    let (values, _) = ticks(3.0, 3.0, 4);
    assert!(!values.is_empty() && values.len() < 10, "{values:?}");
}
