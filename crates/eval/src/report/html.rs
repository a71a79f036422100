//! The page of a report, from heading to footer.
//!
//! In:  a [`Report`]. Out: one HTML page that works offline; equal reports give equal pages.
//! Not here: the results table (`table`), the examples (`queries`), the drawings (`curve`,
//! `histogram`).

use super::{ModelFacts, Report, ReportParts, Reproduction, Timing, curve, figures, histogram};
use super::{markup::Markup, queries, table};
use crate::{Comparison, DistributionComparison, GateVerdict, ScoreDistribution};

/// The report as one HTML page that needs nothing else: no network, no script, no other file.
///
/// The page forbids itself to load anything (content security policy), and all foreign text is
/// escaped.
#[must_use]
pub fn render_html(report: &Report) -> String {
    let parts = &report.parts;
    let mut page = Markup::default();
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ");
    page.raw("style-src 'unsafe-inline'; img-src data:\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw("<meta name=\"color-scheme\" content=\"light dark\">\n<title>").text(&parts.title);
    page.raw("</title>\n<style>\n")
        .raw(include_str!("style.css"))
        .raw("</style>\n</head>\n<body>\n");
    header(&mut page, parts);
    page.raw("<main>\n");
    data(&mut page, parts);
    results(&mut page, &parts.comparison);
    learning(&mut page, parts);
    examples(&mut page, parts);
    distributions(&mut page, &parts.distributions);
    costs(&mut page, &parts.timings, parts.peak_memory_bytes);
    reproduction(&mut page, parts);
    page.raw("</main>\n");
    footer(&mut page, &parts.comparison);
    page.raw("</body>\n</html>\n");
    page.finish()
}

fn open_section(page: &mut Markup, heading: &'static str) {
    page.raw("<section><h2>").raw(heading).raw("</h2>");
}

fn close_section(page: &mut Markup) {
    page.raw("</section>\n");
}

fn header(page: &mut Markup, parts: &ReportParts) {
    page.raw("<header><div class=\"kicker\">conjoin evaluation report</div><h1>");
    page.text(&parts.title).raw("</h1>");
    if !parts.summary.is_empty() {
        page.raw("<p class=\"summary\">").text(&parts.summary).raw("</p>");
    }
    page.raw("<div class=\"models\">");
    if let Some(before) = &parts.before {
        model(page, "Before", before);
        page.raw("<div class=\"arrow\" aria-hidden=\"true\">→</div>");
        model(page, "After", &parts.after);
    } else {
        model(page, "Model", &parts.after);
    }
    page.raw("</div>");
    if let Some(answer) = &parts.verdict {
        verdict(page, answer);
    }
    page.raw("</header>\n");
}

fn model(page: &mut Markup, role: &'static str, model: &ModelFacts) {
    page.raw("<div class=\"model\"><div class=\"quiet\">").raw(role);
    page.raw("</div><div class=\"model-name\"><bdi>").text(&model.name).raw("</bdi></div>");
    if !model.note.is_empty() {
        page.raw("<div>").text(&model.note).raw("</div>");
    }
    if !model.fingerprint.is_empty() {
        page.raw("<div class=\"quiet\"><code>").text(&figures::short_hash(&model.fingerprint));
        page.raw("</code></div>");
    }
    page.raw("</div>");
}

fn verdict(page: &mut Markup, verdict: &GateVerdict) {
    let (open, sign) = if verdict.keep {
        ("<p class=\"verdict better\" role=\"status\">", "✓")
    } else {
        ("<p class=\"verdict worse\" role=\"status\">", "✗")
    };
    page.raw(open).raw("<span class=\"sign\" aria-hidden=\"true\">").raw(sign);
    // A number and its percent sign stay on one line.
    let sentence = verdict.sentence.replace(" %", "\u{a0}%");
    page.raw("</span><span>").text(&sentence).raw("</span></p>");
}

fn data(page: &mut Markup, parts: &ReportParts) {
    if parts.data.is_empty() {
        return;
    }
    open_section(page, "Data");
    page.raw("<dl class=\"facts\">");
    for fact in &parts.data {
        page.raw("<div><dt>").text(&fact.name).raw("</dt><dd><bdi>").text(&fact.value);
        page.raw("</bdi></dd></div>");
    }
    page.raw("</dl>");
    close_section(page);
}

fn results(page: &mut Markup, comparison: &Comparison) {
    open_section(page, "Results");
    table::tiles(page, comparison);
    table::table(page, comparison);
    let bootstrap = &comparison.bootstrap;
    page.raw("<p class=\"quiet\">The smaller figures are ");
    page.text(&format!("{:.0}", 100.0 * bootstrap.level))
        .raw(" % intervals: bootstrap over queries, ");
    page.text(&figures::count(bootstrap.n_resamples.into())).raw(" resamples, seed ");
    page.text(&bootstrap.seed.0.to_string());
    if table::is_compared(comparison) {
        page.raw(
            "; differences are paired, query by query. “Within noise” means that the interval ",
        );
        page.raw("of the difference holds zero");
    }
    page.raw(".</p>");
    close_section(page);
}

fn learning(page: &mut Markup, parts: &ReportParts) {
    let Some(points) = &parts.curve else { return };
    open_section(page, "Learning curve");
    page.raw("<figure>");
    curve::draw(page, points);
    page.raw("</figure>");
    close_section(page);
}

fn examples(page: &mut Markup, parts: &ReportParts) {
    if parts.examples.is_empty() {
        return;
    }
    let compared = parts.examples.iter().any(|example| example.before.is_some());
    open_section(page, if compared { "Winning and losing queries" } else { "Queries" });
    queries::show(page, &parts.examples);
    close_section(page);
}

fn distributions(page: &mut Markup, distributions: &[DistributionComparison]) {
    if distributions.is_empty() {
        return;
    }
    open_section(page, "Score distributions");
    page.raw("<p>How the cosine of a query and an item is spread, for pairs that ");
    page.raw(
        "<span class=\"key matching\"></span> match and for <span class=\"key other\"></span> ",
    );
    page.raw("other pairs. The less the two overlap, the easier the right item is told apart. ");
    page.raw("Scores are comparable only within one pair of senses.</p>");
    for comparison in distributions {
        let after = &comparison.after;
        let axes = histogram::Axes::of(comparison);
        page.raw("<h3>").text(after.query_modality.name()).raw(" → ");
        page.text(after.item_modality.name()).raw(" <code class=\"quiet\">");
        page.text(&comparison.task).raw("</code></h3><div class=\"pair\">");
        if let Some(before) = &comparison.before {
            distribution(page, before, axes, "Before");
        }
        let who = if comparison.before.is_some() { "After" } else { "" };
        distribution(page, after, axes, who);
        page.raw("</div>");
    }
    close_section(page);
}

fn distribution(
    page: &mut Markup,
    model: &ScoreDistribution,
    axes: histogram::Axes,
    who: &'static str,
) {
    page.raw("<figure>");
    histogram::draw(page, model, axes, who);
    page.raw("<figcaption>AUC <b>").text(&format!("{:.3}", model.auc));
    page.raw("</b> · ").text(&figures::count(model.matching.n_pairs)).raw(" matching and ");
    page.text(&figures::count(model.other.n_pairs)).raw(" other pairs");
    let (a, b) = (model.calibration.a, model.calibration.b);
    let even = -b / a;
    if a > 0.0 && even.abs() <= 1.0 {
        page.raw(" · even odds at a score of <b>").text(&figures::score(even)).raw("</b>");
    }
    page.raw("</figcaption></figure>");
}

fn costs(page: &mut Markup, timings: &[Timing], peak_memory_bytes: Option<u64>) {
    if timings.is_empty() && peak_memory_bytes.is_none() {
        return;
    }
    open_section(page, "Time and memory");
    page.raw("<table class=\"costs\"><thead><tr><th scope=\"col\">Step</th>");
    page.raw(
        "<th scope=\"col\" class=\"number\">Time</th><th scope=\"col\" class=\"number\">Items</th>",
    );
    page.raw("<th scope=\"col\" class=\"number\">Per second</th></tr></thead><tbody>");
    for timing in timings {
        page.raw("<tr><th scope=\"row\">").text(&timing.name).raw("</th><td class=\"number\">");
        page.text(&figures::duration(timing.seconds)).raw("</td><td class=\"number\">");
        page.text(&timing.items.map(figures::count).unwrap_or_default());
        page.raw("</td><td class=\"number\">").text(&rate(timing)).raw("</td></tr>");
    }
    if let Some(bytes) = peak_memory_bytes {
        page.raw("<tr class=\"sum\"><th scope=\"row\">Peak memory</th><td class=\"number\">");
        page.text(&figures::bytes(bytes)).raw("</td><td></td><td></td></tr>");
    }
    page.raw("</tbody></table>");
    close_section(page);
}

#[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
fn rate(timing: &Timing) -> String {
    match timing.items {
        Some(items) if timing.seconds > 0.0 => figures::significant(items as f64 / timing.seconds),
        _ => String::new(),
    }
}

fn reproduction(page: &mut Markup, parts: &ReportParts) {
    let Reproduction { command, config_hash, seed, inputs, software, machine } =
        &parts.reproduction;
    open_section(page, "How to get these numbers again");
    if !command.is_empty() {
        page.raw("<pre><code>").text(command).raw("</code></pre>");
    }
    page.raw("<dl class=\"hashes\">");
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            page.raw("<dt>").text(name).raw("</dt><dd><code>").text(value).raw("</code></dd>");
        }
    };
    line("Configuration", config_hash);
    line("Seed", &seed.map(|seed| seed.to_string()).unwrap_or_default());
    if let Some(before) = &parts.before {
        line("Model before", &before.fingerprint);
    }
    line(if parts.before.is_some() { "Model after" } else { "Model" }, &parts.after.fingerprint);
    for (name, hash) in inputs {
        line(name, hash);
    }
    line("Program", software);
    line("Machine", machine);
    page.raw("</dl>");
    close_section(page);
}

fn footer(page: &mut Markup, comparison: &Comparison) {
    page.raw("<footer><h2>How to read the metrics</h2><dl class=\"glossary\">");
    for (name, meaning) in [
        ("Recall@k", "share of queries with at least one relevant item among the first k"),
        (
            "nDCG@10",
            "gain of the first ten hits over the best possible, a hit at rank r counting 1 / log₂(r + 1)",
        ),
        ("MRR", "mean of 1 / rank of the first relevant item; MRR@10 counts 0 beyond rank 10"),
        ("Mean, median rank", "of the first relevant item in the whole corpus; lower is better"),
        ("AUC", "the chance that a matching pair scores above another pair; 0.5 is guessing"),
        ("Even odds", "the score that is as likely among matching as among other pairs"),
    ] {
        page.raw("<dt>").raw(name).raw("</dt><dd>").raw(meaning).raw("</dd>");
    }
    page.raw("</dl><p class=\"quiet\">");
    if comparison.tasks.iter().any(|task| task.n_uncounted > 0) {
        page.raw("Queries without a relevant item are in no metric. ");
    }
    page.raw(
        "Equal scores are ordered by document id, descending, as trec_eval does.</p></footer>\n",
    );
}
