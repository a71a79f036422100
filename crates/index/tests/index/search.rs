//! Search agrees with a plain sort, in any batch, and calibration treats all items alike.

use std::cmp::Ordering;

use crate::common::{build, direction, items, unit};
use conjoin_core::{Embeddings, Hit, Mix, Modality, SearchRequest, Seed, Store, VectorName};
use conjoin_index::{Calibration, Index, IndexItem, Scale};
use proptest::prelude::*;

/// Highest score first, ties in the order of insertion.
fn sorted(mut scored: Vec<(usize, f64)>, k: usize) -> Vec<(usize, f64)> {
    scored.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0)));
    scored.truncate(k);
    scored
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// The plain search: the vector of each item, a cosine, a sort.
fn plain(items: &[IndexItem], request: &SearchRequest) -> Vec<(usize, f64)> {
    let fused = |item: &IndexItem| match (&item.text, &item.image) {
        (Some(t), Some(i)) => Some(unit(t.iter().zip(i).map(|(t, i)| (t + i) / 2.0).collect())),
        (one, None) | (None, one) => one.clone(),
    };
    let vector = |item: &IndexItem| match request.over {
        VectorName::Text => item.text.clone(),
        VectorName::Image => item.image.clone(),
        VectorName::Fused => fused(item),
    };
    let score = |(i, item)| Some((i, dot(&vector(item)?, &request.vector)));
    sorted(items.iter().enumerate().filter_map(score).collect(), request.top_k)
}

#[test]
fn search_agrees_with_a_plain_search() {
    let folder = tempfile::tempdir().unwrap();
    let (n, width, seed) = (700, 37, Seed(5)); // an uneven last block
    let items = items(n, width, seed);
    let index = build(&folder.path().join("index"), items.clone(), None);
    let request = |q: u64, over| {
        let vector = unit(direction(seed.stream("query").at(q), width));
        SearchRequest::new(vector, Modality::Text, over, 1 + (q as usize * 37) % 300)
    };
    let requests: Vec<_> =
        (0..11).flat_map(|q| VectorName::ALL.map(|over| request(q, over))).collect();
    let batch = index.search_batch(&requests).unwrap();
    for (request, hits) in requests.iter().zip(&batch) {
        let expected = plain(&items, request);
        assert_eq!(hits.len(), expected.len());
        for (hit, (item, score)) in hits.iter().zip(&expected) {
            assert_eq!(hit.id, items[*item].id);
            assert!((f64::from(hit.score) - score).abs() < 1e-5);
        }
        assert_eq!(index.search(request).unwrap(), *hits, "a batch is its queries");
    }
}

#[test]
fn every_hit_carries_what_the_item_has() {
    let folder = tempfile::tempdir().unwrap();
    let items = items(12, 8, Seed(6));
    let index = build(&folder.path().join("index"), items.clone(), None);
    let query = unit(direction(Seed(7), 8));
    let request = SearchRequest::new(query.clone(), Modality::Text, VectorName::Fused, 100);
    let hits = index.search(&request).unwrap();
    assert_eq!(hits.len(), 12);
    for hit in hits {
        let item = items.iter().find(|i| i.id == hit.id).unwrap();
        assert_eq!(hit.payload, item.payload);
        assert_eq!(hit.has_picture, item.picture.is_some());
        assert_eq!(index.picture(&hit.id), item.picture.as_deref());
        let leg = |name| hit.legs.iter().find(|l| l.vector == name).map(|l| l.cosine);
        let cosine = |part: &Option<Vec<f32>>| part.as_ref().map(|v| dot(v, &query));
        for (found, expected) in [
            (leg(VectorName::Text), cosine(&item.text)),
            (leg(VectorName::Image), cosine(&item.image)),
        ] {
            assert_eq!(found.is_some(), expected.is_some());
            let difference = f64::from(found.unwrap_or_default()) - expected.unwrap_or_default();
            assert!(difference.abs() < 1e-6);
        }
        assert_eq!(leg(VectorName::Fused), Some(hit.score), "the score is the leg's cosine");
    }
}

#[test]
fn refuses_queries_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let index = build(&folder.path().join("index"), items(3, 4, Seed(1)), None);
    let error = |vector| {
        let request = SearchRequest::new(vector, Modality::Text, VectorName::Text, 1);
        index.search(&request).unwrap_err().to_string()
    };
    assert_eq!(error(vec![1.0]), "the query has 1 dimensions, the index has 4");
    assert_eq!(
        error(vec![f32::INFINITY, 0.0, 0.0, 0.0]),
        "the query vector has a value that is not finite"
    );
    assert_eq!(error(vec![2.0, 0.0, 0.0, 0.0]), "the query vector has length 2, not 1");
    let none = SearchRequest::new(vec![1.0, 0.0, 0.0, 0.0], Modality::Text, VectorName::Text, 0);
    assert_eq!(index.search(&none).unwrap(), []);
}

/// Unit vectors whose dot products are exact in f32 whatever the order of the sum; many are alike.
fn exact_vector() -> impl Strategy<Value = Vec<f32>> {
    let axis = (0..4_usize, prop::bool::ANY).prop_map(|(axis, negative)| {
        let value = if negative { -1.0 } else { 1.0 };
        (0..4).map(|i| if i == axis { value } else { 0.0 }).collect()
    });
    let half = prop::collection::vec(prop::bool::ANY, 4)
        .prop_map(|signs| signs.into_iter().map(|s| if s { 0.5 } else { -0.5 }).collect());
    prop_oneof![axis, half]
}

fn exact_items() -> impl Strategy<Value = Vec<IndexItem>> {
    let part = || prop::option::weighted(0.7, exact_vector());
    let parts =
        (part(), part()).prop_filter("some part that does not cancel", |parts| match parts {
            (Some(t), Some(i)) => dot(t, i) > -1.0,
            (t, i) => t.is_some() || i.is_some(),
        });
    prop::collection::vec(parts, 1..500).prop_map(|parts| {
        let item = |(i, (text, image)): (usize, _)| IndexItem {
            id: i.to_string(),
            text,
            image,
            ..IndexItem::default()
        };
        parts.into_iter().enumerate().map(item).collect()
    })
}

fn found(hits: Vec<Hit>) -> Vec<(usize, f64)> {
    hits.into_iter().map(|hit| (hit.id.parse().unwrap(), f64::from(hit.score))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_top_k_is_a_sort(items in exact_items(), query in exact_vector(), k in 1_usize..700) {
        let folder = tempfile::tempdir().unwrap();
        let index = build(&folder.path().join("index"), items.clone(), None);
        for over in [VectorName::Text, VectorName::Image] {
            let request = SearchRequest::new(query.clone(), Modality::Text, over, k);
            prop_assert_eq!(found(index.search(&request).unwrap()), plain(&items, &request));
        }
    }

    #[test]
    fn prop_calibrated_top_k_is_a_sort(
        items in exact_items(), query in exact_vector(), k in 1_usize..700,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (text, image) = (Scale { mean: 0.25, std: 0.5 }, Scale { mean: -0.5, std: 0.125 });
        let calibration = Calibration {
            text_to_text: Some(text), text_to_image: Some(image), ..Calibration::default()
        };
        let index = build(&folder.path().join("index"), items.clone(), Some(calibration));
        let leg = |part: &Option<Vec<f32>>, scale: Scale| {
            part.as_ref().map(|v| (dot(v, &query) - f64::from(scale.mean)) / f64::from(scale.std))
        };
        let score = |(i, item): (usize, &IndexItem)| {
            let legs = [leg(&item.text, text), leg(&item.image, image)];
            let present: Vec<f64> = legs.into_iter().flatten().collect();
            (i, present.iter().sum::<f64>() / present.len() as f64)
        };
        let expected = sorted(items.iter().enumerate().map(score).collect(), k);
        let request = SearchRequest::new(query.clone(), Modality::Text, VectorName::Fused, k);
        prop_assert_eq!(found(index.search(&request).unwrap()), expected);
    }
}

/// Texts and images of `n` contents in two far regions of one space: the modality gap.
struct Gap {
    texts: Vec<Vec<f32>>,
    images: Vec<Vec<f32>>,
    text_queries: Vec<Vec<f32>>,
    image_queries: Vec<Vec<f32>>,
}

impl Gap {
    fn new(n: usize, width: usize) -> Self {
        let seed = Seed(11);
        let centre = |name: &str| unit(direction(seed.stream(name), width));
        let (text_centre, image_centre) = (centre("text centre"), centre("image centre"));
        let point = |centre: &[f32], i: usize, name: &str| {
            let content = unit(direction(seed.stream("content").at(i as u64), width));
            let noise = unit(direction(seed.stream(name).at(i as u64), width));
            let parts = centre.iter().zip(&content).zip(&noise);
            unit(parts.map(|((centre, content), noise)| centre + 0.8 * content + noise).collect())
        };
        let all = |centre: &[f32], name| (0..n).map(|i| point(centre, i, name)).collect();
        Self {
            texts: all(&text_centre, "text"),
            images: all(&image_centre, "image"),
            text_queries: all(&text_centre, "text query"),
            image_queries: all(&image_centre, "image query"),
        }
    }

    /// A third each has a text only, an image only, both.
    fn index(&self, folder: &std::path::Path, calibration: Option<Calibration>) -> Index {
        let item = |i: usize| IndexItem {
            id: i.to_string(),
            text: (i % 3 != 1).then(|| self.texts[i].clone()),
            image: (!i.is_multiple_of(3)).then(|| self.images[i].clone()),
            ..IndexItem::default()
        };
        build(&folder.join("gap"), (0..self.texts.len()).map(item).collect(), calibration)
    }

    fn calibration(&self) -> Calibration {
        let matrix =
            |rows: &[Vec<f32>]| Embeddings::new(rows[0].len(), rows[..200].concat()).unwrap();
        Calibration::from_pairs(&matrix(&self.texts), &matrix(&self.images))
    }

    fn requests(&self, kind: &str) -> Vec<SearchRequest> {
        let request = |i: usize| {
            let (text, image) = (&self.text_queries[i], &self.image_queries[i]);
            let one = |v: &[f32], m| {
                SearchRequest::new(v.to_vec(), m, VectorName::Fused, self.texts.len())
            };
            match kind {
                "text" => one(text, Modality::Text),
                "image" => one(image, Modality::Image),
                _ => {
                    let sum: Vec<f32> = text.iter().zip(image).map(|(t, i)| t + i).collect();
                    let share = 1.0 / dot(&sum, &sum).sqrt() as f32;
                    let mix = Some(Mix { text: share, image: share });
                    SearchRequest { mix, ..one(&unit(sum), Modality::Text) }
                }
            }
        };
        (0..self.texts.len()).map(request).collect()
    }
}

/// The mean over queries of the matching item's rank, for items with text, image, both.
fn mean_ranks(index: &Index, requests: &[SearchRequest]) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for (i, hits) in index.search_batch(requests).unwrap().into_iter().enumerate() {
        let rank = hits.iter().position(|hit| hit.id == i.to_string()).unwrap();
        sums[i % 3] += rank as f64;
    }
    sums.map(|sum| sum / (requests.len() / 3) as f64)
}

#[test]
fn calibration_makes_a_missing_part_neither_win_nor_lose() {
    let folder = tempfile::tempdir().unwrap();
    let gap = Gap::new(450, 128);
    let raw = gap.index(folder.path(), None);
    let [text, image, _] = mean_ranks(&raw, &gap.requests("text"));
    assert!(image > text + 150.0, "the gap buries image-only items: {text} {image}");
    let [text, image, _] = mean_ranks(&raw, &gap.requests("image"));
    assert!(text > image + 150.0, "the gap buries text-only items: {text} {image}");

    let calibrated = gap.index(folder.path(), Some(gap.calibration()));
    for kind in ["text", "image", "mixed"] {
        let ranks = mean_ranks(&calibrated, &gap.requests(kind));
        let (best, worst) =
            (ranks.iter().copied().fold(f64::MAX, f64::min), ranks.into_iter().fold(0.0, f64::max));
        assert!(worst < best + 9.0, "{kind} queries rank matching items alike: {ranks:?}");
        assert!(worst < 20.0, "{kind} queries find matching items: {ranks:?}");
    }
}

#[test]
fn a_calibrated_score_is_the_mean_of_the_legs() {
    let folder = tempfile::tempdir().unwrap();
    let gap = Gap::new(200, 16);
    let index = gap.index(folder.path(), Some(gap.calibration()));
    for hit in index.search(&gap.requests("mixed")[0]).unwrap() {
        let legs: Vec<f32> = hit.legs.iter().filter_map(|leg| leg.calibrated).collect();
        assert_eq!(legs.len(), hit.legs.len() - 1, "all but the fused leg are calibrated");
        let mean = legs.iter().sum::<f32>() / legs.len() as f32;
        assert!((mean - hit.score).abs() < 1e-4);
    }
}
