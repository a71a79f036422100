//! Inline SVG: scales, axes and the few shapes the drawings need.
//!
//! In:  numbers in data units. Out: markup in a drawing's own pixels.
//! Not here: what is drawn (`curve`, `histogram`, `table`).

use std::fmt::Write as _;

use super::markup::Markup;

/// Maps data to pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Scale {
    /// Maps `low` to `start` and `high` to `end`; a domain without width is given some.
    pub(super) fn new((low, high): (f64, f64), (start, end): (f64, f64)) -> Self {
        let high = if high > low { high } else { low + low.abs().max(1.0) };
        Self { low, high, start, end }
    }

    /// The pixel of a value.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)
    }

    /// Round values inside the domain, about `n` of them, and the digits they need.
    pub(super) fn ticks(&self, n: u32) -> (Vec<f64>, usize) {
        let step = round_step((self.high - self.low) / f64::from(n));
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let first = (self.low / step - 1e-9).ceil();
        let ticks = (0..=2 * n)
            .map(|index| (first + f64::from(index)) * step)
            .take_while(|tick| *tick <= self.high + 1e-9 * step)
            .collect();
        (ticks, digits)
    }
}

/// The least of 1, 2, 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].map(|m| m * power).into_iter().find(|s| *s >= least).unwrap_or(10.0 * power)
}

/// A drawing being written.
pub(super) struct Drawing<'a>(pub(super) &'a mut Markup);

impl Drawing<'_> {
    /// Starts a drawing that scales with the page; `title` is what a screen reader says.
    pub(super) fn open(&mut self, class: &'static str, (width, height): (f64, f64), title: &str) {
        self.0.raw("<svg class=\"").raw(class).raw("\" role=\"img\" viewBox=\"0 0 ");
        self.number(width).0.raw(" ");
        self.number(height).0.raw("\" aria-label=\"").text(title).raw("\">");
    }

    /// Ends it.
    pub(super) fn close(&mut self) {
        self.0.raw("</svg>");
    }

    fn number(&mut self, value: f64) -> &mut Self {
        let value = if value.is_finite() { value } else { 0.0 };
        let text = format!("{value:.1}");
        self.0.text(text.trim_end_matches(".0"));
        self
    }

    fn attribute(&mut self, name: &'static str, value: f64) -> &mut Self {
        self.0.raw(" ").raw(name).raw("=\"");
        self.number(value).0.raw("\"");
        self
    }

    /// A straight line.
    pub(super) fn line(&mut self, class: &'static str, from: (f64, f64), to: (f64, f64)) {
        self.0.raw("<line class=\"").raw(class).raw("\"");
        self.attribute("x1", from.0).attribute("y1", from.1);
        self.attribute("x2", to.0).attribute("y2", to.1);
        self.0.raw("/>");
    }

    /// A dot.
    pub(super) fn dot(&mut self, class: &'static str, at: (f64, f64), radius: f64) {
        self.0.raw("<circle class=\"").raw(class).raw("\"");
        self.attribute("cx", at.0).attribute("cy", at.1).attribute("r", radius);
        self.0.raw("/>");
    }

    /// A line through points; `None` interrupts it. `close_at` fills down to that height.
    pub(super) fn path(
        &mut self,
        class: &'static str,
        points: &[Option<(f64, f64)>],
        close_at: Option<f64>,
    ) {
        let mut d = String::new();
        for run in points.split(Option::is_none) {
            let run: Vec<(f64, f64)> = run.iter().flatten().copied().collect();
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let floor = |x: f64| close_at.map(|y| (x, y));
            let outline = floor(first.0).into_iter().chain(run.iter().copied());
            for (index, (x, y)) in outline.chain(floor(last.0)).enumerate() {
                let letter = if index == 0 { 'M' } else { 'L' };
                // Writing to a string cannot fail.
                let _ = write!(d, "{letter}{x:.1} {y:.1}");
            }
        }
        self.0.raw("<path class=\"").raw(class).raw("\" d=\"").text(&d).raw("\"/>");
    }

    /// Text at a point; the class says how it is aligned.
    pub(super) fn label(&mut self, class: &'static str, at: (f64, f64), text: &str) {
        self.0.raw("<text class=\"").raw(class).raw("\"");
        self.attribute("x", at.0).attribute("y", at.1);
        self.0.raw(">").text(text).raw("</text>");
    }

    /// Horizontal grid lines with their values at the left of `frame`.
    pub(super) fn y_axis(
        &mut self,
        scale: Scale,
        n: u32,
        frame: &Frame,
        show: impl Fn(f64, usize) -> String,
    ) {
        let (ticks, digits) = scale.ticks(n);
        for tick in ticks {
            let y = scale.at(tick);
            self.line("grid", (frame.left, y), (frame.right, y));
            self.label("tick end", (frame.left - 8.0, y + 4.0), &show(tick, digits));
        }
    }

    /// The bottom line of `frame` with ticks and values below.
    pub(super) fn x_axis(
        &mut self,
        scale: Scale,
        n: u32,
        frame: &Frame,
        show: impl Fn(f64, usize) -> String,
    ) {
        self.line("axis", (frame.left, frame.bottom), (frame.right, frame.bottom));
        let (ticks, digits) = scale.ticks(n);
        for tick in ticks {
            let x = scale.at(tick);
            self.line("axis", (x, frame.bottom), (x, frame.bottom + 4.0));
            self.label("tick middle", (x, frame.bottom + 18.0), &show(tick, digits));
        }
    }
}

/// Where in a drawing the data goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Frame {
    /// The scale of the horizontal axis.
    pub(super) fn x(&self, domain: (f64, f64)) -> Scale {
        Scale::new(domain, (self.left, self.right))
    }

    /// The scale of the vertical axis, upwards.
    pub(super) fn y(&self, domain: (f64, f64)) -> Scale {
        Scale::new(domain, (self.bottom, self.top))
    }
}

/// The least and greatest finite value; `None` when there is none.
pub(super) fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|value| value.is_finite()).fold(None, |found, value| {
        let (low, high) = found.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}
