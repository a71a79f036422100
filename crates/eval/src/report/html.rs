//! The page of a report.

use super::{Report, markup::Markup};

/// The report as one HTML page that needs nothing else: no network, no scripts, no other file.
#[must_use]
pub fn render_html(report: &Report) -> String {
    let mut page = Markup::default();
    page.raw("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>");
    page.text(&report.parts.title);
    page.raw("</title>");
    page.finish()
}
