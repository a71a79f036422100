//! Score distributions: matching and other pairs as two outlines over the cosine.
//!
//! In:  a [`DistributionComparison`]. Out: one drawing per model, on the same axes.

use super::{
    figures,
    markup::Markup,
    plot::{Drawing, Frame, Scale},
};
use crate::{
    DistributionComparison, HISTOGRAM_BINS, ScoreDistribution, distribution::ScoreSummary,
};

/// Bins drawn at most: finer ones are joined.
const MAX_BINS: usize = 70;

const SIZE: (f64, f64) = (520.0, 270.0);
const FRAME: Frame = Frame { left: 52.0, right: 510.0, top: 44.0, bottom: 216.0 };

/// The axes that all drawings of a task share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axes {
    /// The bins shown, `first..end`, a whole number of joined ones.
    first: usize,
    end: usize,
    /// Bins joined into one.
    joined: usize,
    /// The greatest share of a joined bin.
    highest: f64,
}

impl Axes {
    /// Axes on which every score of both models can be seen.
    pub(super) fn of(comparison: &DistributionComparison) -> Self {
        let models = || comparison.before.iter().chain([&comparison.after]);
        let sides = || models().flat_map(|model| [&model.matching, &model.other]);
        let used = |bin: &usize| {
            sides().any(|side| side.histogram.counts.get(*bin).is_some_and(|count| *count > 0))
        };
        let first = (0..HISTOGRAM_BINS).find(used).unwrap_or(0);
        let end = (0..HISTOGRAM_BINS).rfind(used).map_or(HISTOGRAM_BINS, |bin| bin + 1);
        // Whole tenths look tidy and leave some air.
        let (first, end) = (first / 10 * 10, end.next_multiple_of(10));
        let joined = [1, 2, 5].into_iter().find(|j| (end - first) / j <= MAX_BINS).unwrap_or(5);
        let highest = sides()
            .flat_map(|side| shares(side, first..end, joined))
            .fold(0.0, |highest: f64, share| highest.max(share));
        Self { first, end, joined, highest }
    }
}

/// The share of a side's pairs in each joined bin.
fn shares(side: &ScoreSummary, bins: std::ops::Range<usize>, joined: usize) -> Vec<f64> {
    let total = side.n_pairs.max(1) as f64;
    let counts = side.histogram.counts.get(bins).unwrap_or_default();
    counts.chunks(joined).map(|bin| bin.iter().sum::<u64>() as f64 / total).collect()
}

fn edge(bin: usize) -> f64 {
    -1.0 + 2.0 * bin as f64 / HISTOGRAM_BINS as f64
}

/// Draws one model's two outlines.
pub(super) fn draw(page: &mut Markup, model: &ScoreDistribution, axes: Axes, who: &str) {
    let x = FRAME.x((edge(axes.first), edge(axes.end)));
    let y = FRAME.y((0.0, 108.0 * axes.highest));
    let mut drawing = Drawing(page);
    drawing.open("plot", SIZE, &describe(model, who));
    drawing.label("heading", (0.0, 16.0), who);
    drawing.y_axis(y, 6, &FRAME, |share, digits| format!("{share:.digits$} %"));
    for (fill, line, side) in [
        ("area other", "line other", &model.other),
        ("area matching", "line matching", &model.matching),
    ] {
        let outline = outline(side, axes, x, y);
        drawing.path(fill, &outline, Some(FRAME.bottom));
        drawing.path(line, &outline, None);
    }
    drawing.x_axis(x, 8, &FRAME, |score, digits| figures::minus(format!("{score:.digits$}")));
    let centre = f64::midpoint(FRAME.left, FRAME.right);
    drawing.label("name middle", (centre, FRAME.bottom + 40.0), "cosine similarity");
    draw_means(&mut drawing, model, x);
    drawing.close();
}

fn outline(side: &ScoreSummary, axes: Axes, x: Scale, y: Scale) -> Vec<Option<(f64, f64)>> {
    let shares = shares(side, axes.first..axes.end, axes.joined);
    let corners = shares.iter().enumerate().flat_map(|(index, share)| {
        let from = axes.first + index * axes.joined;
        let height = y.at(100.0 * share);
        [(x.at(edge(from)), height), (x.at(edge(from + axes.joined)), height)]
    });
    corners.map(Some).collect()
}

/// Marks both means; their names stand on the outer sides so that they never cover each other.
fn draw_means(drawing: &mut Drawing<'_>, model: &ScoreDistribution, x: Scale) {
    let matching_right = model.matching.mean >= model.other.mean;
    for (name, class, side, right) in [
        ("matching", "mean matching", &model.matching, matching_right),
        ("other", "mean other", &model.other, !matching_right),
    ] {
        let at = x.at(side.mean);
        drawing.line(class, (at, FRAME.top - 6.0), (at, FRAME.bottom));
        let (class, shift) = if right { ("name", 6.0) } else { ("name end", -6.0) };
        let text = format!("{name} {}", figures::score(side.mean));
        drawing.label(class, (at + shift, FRAME.top - 8.0), &text);
    }
}

fn describe(model: &ScoreDistribution, who: &str) -> String {
    format!(
        "{who}: matching pairs have a mean cosine of {}, other pairs of {}; the area under the \
         curve is {:.3}",
        figures::score(model.matching.mean),
        figures::score(model.other.mean),
        model.auc,
    )
}
