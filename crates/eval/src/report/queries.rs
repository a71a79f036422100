//! Queries that won or lost, with what was found before and after.
//!
//! In:  [`QueryExample`]s. Out: markup. Pictures are shown only from harmless data URIs.

use std::cmp::Ordering;

use super::{figures, markup::Markup};
use crate::{Card, ExampleHit, QueryExample, RankedCards};

/// Shows the examples in up to three groups.
pub(super) fn show(page: &mut Markup, examples: &[QueryExample]) {
    for (heading, outcome) in [
        ("▲ Queries that won", Ordering::Greater),
        ("▼ Queries that lost", Ordering::Less),
        ("○ Queries that stayed", Ordering::Equal),
    ] {
        let group: Vec<&QueryExample> =
            examples.iter().filter(|example| example.outcome() == outcome).collect();
        if group.is_empty() {
            continue;
        }
        if group.iter().any(|example| example.before.is_some()) {
            page.raw("<h3 class=\"").raw(class(outcome)).raw("\">").raw(heading).raw("</h3>");
        }
        for example in group {
            show_example(page, example, outcome);
        }
    }
}

fn class(outcome: Ordering) -> &'static str {
    match outcome {
        Ordering::Greater => "better",
        Ordering::Less => "worse",
        Ordering::Equal => "unclear",
    }
}

fn show_example(page: &mut Markup, example: &QueryExample, outcome: Ordering) {
    page.raw("<article class=\"example\"><div class=\"query\">");
    picture(page, &example.query, "query-picture");
    page.raw("<div>");
    if let Some(text) = &example.query.text {
        page.raw("<div class=\"query-text\"><bdi>").text(text).raw("</bdi></div>");
    }
    page.raw("<div class=\"quiet\">first relevant item at rank</div><div class=\"ranks\">");
    if let Some(before) = &example.before {
        page.text(&figures::count(before.first_rank.into())).raw(" → ");
    }
    page.raw("<b class=\"").raw(class(outcome)).raw("\">");
    page.text(&figures::count(example.after.first_rank.into())).raw("</b></div>");
    page.raw("<div class=\"quiet\"><code>").text(&example.task).raw("</code></div></div></div>");
    page.raw("<div class=\"sides\">");
    if let Some(before) = &example.before {
        side(page, "Before", before);
        side(page, "After", &example.after);
    } else {
        side(page, "Found", &example.after);
    }
    page.raw("</div></article>");
}

fn side(page: &mut Markup, name: &'static str, side: &RankedCards) {
    page.raw("<div class=\"side\"><div class=\"side-name\">").raw(name);
    page.raw("</div><ol class=\"hits\">");
    for hit in &side.hits {
        show_hit(page, hit);
    }
    page.raw("</ol></div>");
}

fn show_hit(page: &mut Markup, hit: &ExampleHit) {
    page.raw(if hit.relevant { "<li class=\"hit relevant\">" } else { "<li class=\"hit\">" });
    picture(page, &hit.card, "hit-picture");
    if let Some(text) = &hit.card.text {
        page.raw("<div class=\"hit-text\"><bdi>").text(text).raw("</bdi></div>");
    }
    page.raw("<div class=\"hit-foot\"><span>");
    page.text(&figures::score(f64::from(hit.score))).raw("</span>");
    if hit.relevant {
        page.raw("<span class=\"mark\">✓ relevant</span>");
    }
    page.raw("</div></li>");
}

fn picture(page: &mut Markup, card: &Card, class: &'static str) {
    let Some(uri) = card.picture.as_deref().filter(|uri| is_picture(uri)) else { return };
    page.raw("<img class=\"").raw(class).raw("\" alt=\"");
    page.text(card.text.as_deref().unwrap_or("picture")).raw("\" src=\"").text(uri).raw("\">");
}

/// Whether this is a base64 data URI of a bitmap. Others (SVG can carry scripts, other addresses
/// need a network) are not shown.
fn is_picture(uri: &str) -> bool {
    let data = ["png", "jpeg", "webp", "gif"].iter().find_map(|kind| {
        uri.strip_prefix("data:image/")?.strip_prefix(kind)?.strip_prefix(";base64,")
    });
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    data.is_some_and(|data| !data.is_empty() && data.bytes().all(base64))
}
