//! The results: a tile per task and the table of all metrics.
//!
//! In:  a [`Comparison`]. Out: markup; where there is no old model, without its columns.

use super::{figures, markup::Markup, plot::Drawing};
use crate::{Change, Comparison, Estimate, Interval, Metric, MetricComparison, TaskComparison};

/// The metric of the tiles.
const HEADLINE: Metric = Metric::RecallAt10;

const WHISKER: (f64, f64) = (150.0, 22.0);

/// What a change means to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Better,
    Worse,
    Unclear,
}

impl Reading {
    fn of(metric: Metric, change: &Change) -> Self {
        match metric.gain(change.difference) {
            _ if !change.is_clear() => Self::Unclear,
            gain if gain > 0.0 => Self::Better,
            _ => Self::Worse,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Unclear => "unclear",
        }
    }

    /// A sign and a word, so that nothing hangs on colour.
    fn words(self) -> &'static str {
        match self {
            Self::Better => "▲ better",
            Self::Worse => "▼ worse",
            Self::Unclear => "○ within noise",
        }
    }
}

/// One large number per task.
pub(super) fn tiles(page: &mut Markup, comparison: &Comparison) {
    page.raw("<div class=\"tiles\">");
    for task in &comparison.tasks {
        if let Some(entry) = task.metric(HEADLINE) {
            tile(page, task, entry);
        }
    }
    page.raw("</div>");
}

fn tile(page: &mut Markup, task: &TaskComparison, entry: &MetricComparison) {
    page.raw("<div class=\"tile\"><div class=\"tile-name\">").text(&senses(task));
    page.raw("</div><div class=\"tile-value\">").text(&HEADLINE.display(entry.after.value));
    page.raw("<span class=\"unit\"> % ").text(HEADLINE.name()).raw("</span></div>");
    if let Some(change) = &entry.change {
        let reading = Reading::of(HEADLINE, change);
        page.raw("<div class=\"").raw(reading.class()).raw("\">").raw(reading.words());
        page.raw(" <b>").text(&HEADLINE.display_difference(change.difference));
        page.raw("</b> points</div><div class=\"quiet\">before: ");
        page.text(&HEADLINE.display(change.before.value)).raw(" %</div>");
    }
    page.raw("<div class=\"quiet\"><code>").text(&task.name).raw("</code></div></div>");
}

fn senses(task: &TaskComparison) -> String {
    format!("{} → {}", task.query_modality, task.item_modality)
}

/// Whether there is an old model.
pub(super) fn is_compared(comparison: &Comparison) -> bool {
    comparison.tasks.iter().flat_map(|task| &task.metrics).any(|entry| entry.change.is_some())
}

/// All metrics of all tasks.
pub(super) fn table(page: &mut Markup, comparison: &Comparison) {
    let compared = is_compared(comparison);
    page.raw(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"All metrics\"><table class=\"results\"><thead><tr><th scope=\"col\">Metric</th>",
    );
    if compared {
        for name in ["Before", "After", "Difference"] {
            value_head(page, name);
        }
        page.raw("<th scope=\"col\" class=\"centre\"><span class=\"quiet\">worse ←</span> 0 ");
        page.raw("<span class=\"quiet\">→ better</span></th><th scope=\"col\">Reading</th>");
    } else {
        value_head(page, "Value");
    }
    page.raw("</tr></thead>");
    let shares = reach(comparison.tasks.iter().flat_map(|t| &t.metrics), |m| !m.is_rank());
    for task in &comparison.tasks {
        let columns = if compared { "9" } else { "3" };
        page.raw("<tbody><tr class=\"task\"><th scope=\"rowgroup\" colspan=\"").raw(columns);
        page.raw("\">").text(&task.name).raw(" <span class=\"quiet\">").text(&describe(task));
        page.raw("</span></th></tr>");
        for entry in &task.metrics {
            let reach = match entry.metric.is_rank() {
                true => reach([entry], |_| true),
                false => shares,
            };
            row(page, entry, reach);
        }
        page.raw("</tbody>");
    }
    page.raw("</table></div>");
}

fn value_head(page: &mut Markup, name: &'static str) {
    page.raw("<th scope=\"col\" class=\"number\">").raw(name);
    page.raw("</th><th scope=\"col\" class=\"range\">interval</th>");
}

fn describe(task: &TaskComparison) -> String {
    let mut text = format!(
        "{}, {} queries over {} items",
        senses(task),
        figures::count(task.n_queries.into()),
        figures::count(task.n_corpus.into()),
    );
    if task.n_uncounted > 0 {
        let n = figures::count(task.n_uncounted.into());
        text += &format!("; {n} queries without a relevant item are not counted");
    }
    text
}

fn row(page: &mut Markup, entry: &MetricComparison, reach: f64) {
    let metric = entry.metric;
    page.raw("<tr><th scope=\"row\">").text(title(metric)).raw("</th>");
    if let Some(change) = &entry.change {
        estimate(page, metric, &change.before);
    }
    estimate(page, metric, &entry.after);
    if let Some(change) = &entry.change {
        let reading = Reading::of(metric, change);
        let show = |value| metric.display_difference(value);
        page.raw("<td class=\"number ").raw(reading.class()).raw("\"><b>");
        page.text(&show(change.difference)).raw("</b></td>");
        range(page, show, change.interval);
        page.raw("<td class=\"centre\">");
        whisker(page, metric, change, reach, reading);
        page.raw("</td><td class=\"reading ").raw(reading.class()).raw("\">");
        page.raw(reading.words()).raw("</td>");
    }
    page.raw("</tr>");
}

fn estimate(page: &mut Markup, metric: Metric, estimate: &Estimate) {
    page.raw("<td class=\"number\">").text(&metric.display(estimate.value)).raw("</td>");
    range(page, |value| metric.display(value), estimate.interval);
}

fn range(page: &mut Markup, show: impl Fn(f64) -> String, interval: Interval) {
    page.raw("<td class=\"range\">").text(&show(interval.low)).raw(" to ");
    page.text(&show(interval.high)).raw("</td>");
}

fn title(metric: Metric) -> &'static str {
    match metric {
        Metric::RecallAt1 => "Recall@1, %",
        Metric::RecallAt5 => "Recall@5, %",
        Metric::RecallAt10 => "Recall@10, %",
        Metric::NdcgAt10 => "nDCG@10, %",
        Metric::Mrr => "MRR, %",
        Metric::MrrAt10 => "MRR@10, %",
        Metric::MeanRank => "Mean rank",
        Metric::MedianRank => "Median rank",
    }
}

/// How far the intervals of the chosen metrics reach from zero.
fn reach<'a>(
    entries: impl IntoIterator<Item = &'a MetricComparison>,
    chosen: impl Fn(Metric) -> bool,
) -> f64 {
    entries
        .into_iter()
        .filter(|entry| chosen(entry.metric))
        .filter_map(|entry| entry.change)
        .flat_map(|change| [change.interval.low.abs(), change.interval.high.abs()])
        .fold(0.0, f64::max)
}

/// The difference and its interval around zero, better to the right.
fn whisker(page: &mut Markup, metric: Metric, change: &Change, reach: f64, reading: Reading) {
    let (width, height) = WHISKER;
    let centre = (width / 2.0, height / 2.0);
    let scale = if reach > 0.0 { (width / 2.0 - 8.0) / reach } else { 0.0 };
    let at = |value: f64| (centre.0 + metric.gain(value) * scale, centre.1);
    let (line, dot) = match reading {
        Reading::Better => ("whisker better", "point better"),
        Reading::Worse => ("whisker worse", "point worse"),
        Reading::Unclear => ("whisker unclear", "point unclear"),
    };
    let label = format!(
        "{} {}, interval {} to {}",
        metric.name(),
        metric.display_difference(change.difference),
        metric.display_difference(change.interval.low),
        metric.display_difference(change.interval.high),
    );
    let mut drawing = Drawing(page);
    drawing.open("inline", WHISKER, &label);
    drawing.line("zero", (centre.0, 1.0), (centre.0, height - 1.0));
    drawing.line(line, at(change.interval.low), at(change.interval.high));
    for end in [change.interval.low, change.interval.high] {
        let (x, y) = at(end);
        drawing.line(line, (x, y - 4.0), (x, y + 4.0));
    }
    drawing.dot(dot, at(change.difference), 4.0);
    drawing.close();
}
