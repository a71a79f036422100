//! Exact search: every row is scored, on all cores.
//!
//! In:  an index and requests. Out: hits, best first.
//! Not here: the dot products (`scan`), the order of scores (`top`).
//!
//! A search adds up *legs*. A leg holds the queries against one matrix and puts each cosine on a
//! scale; an item's score is the mean over the legs whose part it has. A search over one vector has
//! one leg and leaves the cosine as it is; a calibrated one has a leg per part.

use std::ops::Range;

use conjoin_core::{Hit, Leg, Modality, SearchError, SearchRequest, VectorName};
use rayon::prelude::*;

use crate::{
    Index,
    builder::{UNIT_TOLERANCE, square_length},
    calibration::{Query, Scale},
    index::{Matrix, modality_of},
    layout::Line,
    scan::dots,
    top::{Scored, Top},
};

/// Items scored at once: their rows of common widths stay in a core's second-level cache.
const BLOCK: usize = 256;

/// The hits of each request.
pub(crate) fn search(
    index: &Index,
    requests: &[SearchRequest],
) -> Result<Vec<Vec<Hit>>, SearchError> {
    requests.iter().try_for_each(|request| check(index, request))?;
    let mut found: Vec<Vec<Scored>> = vec![Vec::new(); requests.len()];
    for plan in Plan::ALL {
        let members: Vec<usize> =
            (0..requests.len()).filter(|r| Plan::of(index, &requests[*r]) == plan).collect();
        let group: Vec<&SearchRequest> = members.iter().map(|r| &requests[*r]).collect();
        for (member, scored) in members.into_iter().zip(run(index, plan, &group)) {
            found[member] = scored;
        }
    }
    let hits = |(request, scored): (&SearchRequest, Vec<Scored>)| {
        scored.into_iter().map(|s| hit(index, request, s)).collect()
    };
    requests.iter().zip(found).map(hits).collect()
}

fn check(index: &Index, request: &SearchRequest) -> Result<(), SearchError> {
    let (found, expected) = (request.vector.len(), index.width());
    if found != expected {
        return Err(SearchError::Width { found, expected });
    }
    if request.vector.iter().any(|v| !v.is_finite()) {
        return Err(SearchError::NotFinite);
    }
    let square = square_length(&request.vector);
    if (square - 1.0).abs() > UNIT_TOLERANCE {
        return Err(SearchError::NotUnit { length: square.sqrt() });
    }
    Ok(())
}

/// Which legs a search has.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plan {
    /// The cosine with one vector.
    Cosine(VectorName),
    /// The mean calibrated cosine over the parts an item has.
    Calibrated,
}

impl Plan {
    const ALL: [Self; 4] = [
        Self::Cosine(VectorName::Text),
        Self::Cosine(VectorName::Image),
        Self::Cosine(VectorName::Fused),
        Self::Calibrated,
    ];

    fn of(index: &Index, request: &SearchRequest) -> Self {
        let has = |part| scale(index, request, part).is_some();
        match request.over {
            VectorName::Fused if has(Modality::Text) && has(Modality::Image) => Self::Calibrated,
            over @ (VectorName::Text | VectorName::Image | VectorName::Fused) => Self::Cosine(over),
        }
    }

    fn vectors(self) -> Vec<VectorName> {
        match self {
            Self::Cosine(vector) => vec![vector],
            Self::Calibrated => vec![VectorName::Text, VectorName::Image],
        }
    }
}

fn scale(index: &Index, request: &SearchRequest, part: Modality) -> Option<Scale> {
    let query = Query { modality: request.modality, mix: request.mix };
    index.calibration()?.scale_of(query, part)
}

/// Queries held against one matrix, each with its own scale.
struct ScanLeg<'a> {
    matrix: Matrix<'a>,
    scales: Vec<Scale>,
}

impl ScanLeg<'_> {
    /// The rows of a range of items: rows are in the items' order.
    fn rows(&self, items: &Range<usize>) -> Range<usize> {
        let Some(rows) = self.matrix.items else { return items.clone() };
        let before = |end: usize| rows.partition_point(|item| (*item as usize) < end);
        before(items.start)..before(items.end)
    }

    fn item(&self, row: usize) -> usize {
        self.matrix.items.map_or(row, |items| items[row] as usize)
    }
}

/// The best items for each request of one plan.
fn run(index: &Index, plan: Plan, requests: &[&SearchRequest]) -> Vec<Vec<Scored>> {
    if requests.is_empty() {
        return Vec::new();
    }
    let n = index.header.items;
    let queries: Vec<f32> = requests.iter().flat_map(|r| &r.vector).copied().collect();
    let legs: Vec<ScanLeg> =
        plan.vectors().into_iter().map(|vector| leg(index, plan, vector, requests)).collect();
    let start = || -> Vec<Top> { requests.iter().map(|r| Top::new(r.top_k.min(n))).collect() };
    let tops = (0..n.div_ceil(BLOCK))
        .into_par_iter()
        .fold(
            || (start(), Scratch::default()),
            |(mut tops, mut scratch), block| {
                let items = block * BLOCK..((block + 1) * BLOCK).min(n);
                scratch.score(&legs, &queries, index.width(), &items);
                scratch.push(&items, &mut tops);
                (tops, scratch)
            },
        )
        .map(|(tops, _)| tops)
        .reduce(start, |a, b| a.into_iter().zip(b).map(|(a, b)| a.merge(b)).collect());
    tops.into_iter().map(Top::into_sorted).collect()
}

fn leg<'a>(
    index: &'a Index,
    plan: Plan,
    vector: VectorName,
    requests: &[&SearchRequest],
) -> ScanLeg<'a> {
    let scale_of = |request: &&SearchRequest| match (plan, modality_of(vector)) {
        (Plan::Calibrated, Some(part)) => scale(index, request, part).unwrap_or(Scale::IDENTITY),
        (Plan::Calibrated, None) | (Plan::Cosine(_), _) => Scale::IDENTITY,
    };
    ScanLeg { matrix: index.matrix(vector), scales: requests.iter().map(scale_of).collect() }
}

/// The scores of one block of items, reused from block to block.
#[derive(Default)]
struct Scratch {
    /// `[q, rows of the block]`.
    cosines: Vec<f32>,
    /// `[q, items of the block]`.
    sums: Vec<f32>,
    /// How many legs each item of the block has.
    counts: Vec<f32>,
}

impl Scratch {
    fn score(&mut self, legs: &[ScanLeg], queries: &[f32], e: usize, items: &Range<usize>) {
        let n_queries = queries.len() / e;
        self.sums.clear();
        self.sums.resize(n_queries * items.len(), 0.0);
        self.counts.clear();
        self.counts.resize(items.len(), 0.0);
        for leg in legs {
            let rows = leg.rows(items);
            self.cosines.resize(n_queries * rows.len(), 0.0);
            let values = &leg.matrix.values[rows.start * e..rows.end * e];
            dots(values, queries, e, &mut self.cosines);
            rows.clone().for_each(|row| self.counts[leg.item(row) - items.start] += 1.0);
            for (q, scale) in leg.scales.iter().enumerate() {
                let sums = &mut self.sums[q * items.len()..][..items.len()];
                let cosines = &self.cosines[q * rows.len()..][..rows.len()];
                for (row, cosine) in rows.clone().zip(cosines) {
                    sums[leg.item(row) - items.start] += scale.apply(*cosine);
                }
            }
        }
    }

    fn push(&self, items: &Range<usize>, tops: &mut [Top]) {
        for (top, sums) in tops.iter_mut().zip(self.sums.chunks_exact(items.len())) {
            for ((item, sum), count) in items.clone().zip(sums).zip(&self.counts) {
                // An item without any of the legs is 0 / 0, which is never kept.
                top.push(sum / count, item);
            }
        }
    }
}

fn hit(index: &Index, request: &SearchRequest, found: Scored) -> Result<Hit, SearchError> {
    let item = found.item;
    let line: Line =
        serde_json::from_slice(index.items.get(item)).map_err(|_| SearchError::Damaged { item })?;
    let legs = VectorName::ALL.into_iter().filter_map(|name| {
        let mut cosine = [0.0];
        dots(index.vector(item, name)?, &request.vector, index.width(), &mut cosine);
        let scale = modality_of(name).and_then(|part| scale(index, request, part));
        let [cosine] = cosine;
        Some(Leg { vector: name, cosine, calibrated: scale.map(|s| s.apply(cosine)) })
    });
    Ok(Hit {
        score: found.score,
        legs: legs.collect(),
        has_picture: !index.pictures.get(item).is_empty(),
        id: line.id,
        payload: line.payload,
    })
}
