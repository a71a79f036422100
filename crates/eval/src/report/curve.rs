//! The learning curve: loss, evaluations and learning rate over steps, one panel each.
//!
//! In:  a [`TrainingCurve`]. Out: one drawing.

use std::collections::BTreeMap;

use super::{
    EvaluationPoint, TrainingCurve, figures,
    markup::Markup,
    plot::{Drawing, Frame, Scale, extent},
};

/// Points drawn at most; more would not show.
const MAX_POINTS: usize = 500;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
/// Leaves room for the names at the ends of lines.
const RIGHT: f64 = 790.0;
const LOSS_HEIGHT: f64 = 220.0;
const EVALUATION_HEIGHT: f64 = 170.0;
const RATE_HEIGHT: f64 = 70.0;
/// Between panels: a heading and air.
const GAP: f64 = 44.0;
const LABEL_HEIGHT: f64 = 16.0;

/// Line styles of evaluation series, told apart by dashes as well as by colour.
const SERIES: [&str; 4] = ["line series0", "line series1", "line series2", "line series3"];
const DOTS: [&str; 4] = ["dot series0", "dot series1", "dot series2", "dot series3"];

/// A point `(step, value)`.
type Point = (f64, f64);

/// Draws the curve; nothing when no loss is finite.
pub(super) fn draw(page: &mut Markup, curve: &TrainingCurve) {
    let loss = points(&curve.steps, &curve.loss);
    let Some(values) = extent(loss.iter().map(|point| point.1)) else { return };
    let rate = points(&curve.steps, &curve.learning_rate);
    let evaluations = by_name(&curve.evaluations);
    let steps = loss.iter().map(|point| point.0);
    let steps = steps.chain(curve.evaluations.iter().map(|point| as_f64(point.step)));
    let x = Scale::new(extent(steps).unwrap_or((0.0, 1.0)), (LEFT, RIGHT));

    let mut panels = Panels { next: 0.0 };
    let loss_frame = panels.add(LOSS_HEIGHT);
    let evaluation_frame = (!evaluations.is_empty()).then(|| panels.add(EVALUATION_HEIGHT));
    let rate_frame = (!rate.is_empty()).then(|| panels.add(RATE_HEIGHT));

    let mut drawing = Drawing(page);
    drawing.open("plot", (WIDTH, panels.next + 44.0), &describe(&loss));
    draw_loss(&mut drawing, &loss, values, x, &loss_frame);
    if let Some(frame) = &evaluation_frame {
        draw_evaluations(&mut drawing, &evaluations, x, frame);
    }
    if let Some(frame) = &rate_frame {
        draw_rate(&mut drawing, &rate, x, frame);
    }
    let last = rate_frame.or(evaluation_frame).unwrap_or(loss_frame);
    drawing.x_axis(x, 8, &last, |step, _| figures::count(step.max(0.0) as u64));
    drawing.label("name middle", (f64::midpoint(LEFT, RIGHT), last.bottom + 38.0), "step");
    drawing.close();
}

/// Stacks panels from the top.
struct Panels {
    next: f64,
}

impl Panels {
    fn add(&mut self, height: f64) -> Frame {
        let top = self.next + GAP;
        self.next = top + height;
        Frame { left: LEFT, right: RIGHT, top, bottom: self.next }
    }
}

fn points(steps: &[u64], values: &[f32]) -> Vec<Point> {
    let all: Vec<Point> =
        steps.iter().zip(values).map(|(s, v)| (as_f64(*s), f64::from(*v))).collect();
    let per_point = all.len().div_ceil(MAX_POINTS).max(1);
    let mean = |points: &[Point]| {
        let finite: Vec<&Point> = points.iter().filter(|point| point.1.is_finite()).collect();
        let n = finite.len() as f64; // Without any it is 0, and the point is NaN, a gap.
        (points[0].0, finite.iter().map(|point| point.1).sum::<f64>() / n)
    };
    all.chunks(per_point).map(mean).collect()
}

/// A moving mean over about a twentieth of the run; gaps stay out.
fn smooth(points: &[Point]) -> Vec<Point> {
    let reach = points.len() / 40;
    let mean = |index: usize| {
        let window = &points[index.saturating_sub(reach)..(index + reach + 1).min(points.len())];
        let finite: Vec<f64> = window.iter().map(|p| p.1).filter(|v| v.is_finite()).collect();
        (points[index].0, finite.iter().sum::<f64>() / finite.len() as f64)
    };
    (0..points.len()).map(mean).collect()
}

fn by_name(points: &[EvaluationPoint]) -> BTreeMap<&str, Vec<Point>> {
    let mut series: BTreeMap<&str, Vec<Point>> = BTreeMap::new();
    for point in points.iter().filter(|point| point.value.is_finite()) {
        series.entry(&point.name).or_default().push((as_f64(point.step), point.value));
    }
    for points in series.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    series
}

fn describe(loss: &[Point]) -> String {
    let finite: Vec<&Point> = loss.iter().filter(|point| point.1.is_finite()).collect();
    match (finite.first(), finite.last()) {
        (Some(first), Some(last)) => format!(
            "Learning curve: the loss goes from {} at step {} to {} at step {}",
            figures::significant(first.1),
            figures::count(first.0 as u64),
            figures::significant(last.1),
            figures::count(last.0 as u64),
        ),
        _ => "Learning curve".to_owned(),
    }
}

fn place(points: &[Point], x: Scale, y: Scale) -> Vec<Option<(f64, f64)>> {
    points.iter().map(|(s, v)| v.is_finite().then(|| (x.at(*s), y.at(*v)))).collect()
}

fn draw_loss(
    drawing: &mut Drawing<'_>,
    loss: &[Point],
    (low, high): (f64, f64),
    x: Scale,
    frame: &Frame,
) {
    let margin = 0.05 * (high - low);
    let y = frame.y((low - margin, high + margin));
    heading(drawing, frame, "Training loss");
    drawing.y_axis(y, 5, frame, |value, digits| figures::minus(format!("{value:.digits$}")));
    drawing.line("axis", (frame.left, frame.bottom), (frame.right, frame.bottom));
    drawing.path("line faint", &place(loss, x, y), None);
    let smoothed = smooth(loss);
    drawing.path("line loss", &place(&smoothed, x, y), None);
    if let Some(last) = smoothed.iter().rev().find(|point| point.1.is_finite()) {
        let at = (x.at(last.0) + 10.0, y.at(last.1) + 4.0);
        drawing.label("name", at, &format!("loss {}", figures::significant(last.1)));
    }
}

fn draw_evaluations(
    drawing: &mut Drawing<'_>,
    series: &BTreeMap<&str, Vec<Point>>,
    x: Scale,
    frame: &Frame,
) {
    let values = || series.values().flatten().map(|point| point.1);
    let shares = values().all(|value| (0.0..=1.0).contains(&value));
    let factor = if shares { 100.0 } else { 1.0 };
    let (low, high) = extent(values().map(|value| factor * value)).unwrap_or((0.0, 1.0));
    let margin = (0.1 * (high - low)).max(1e-9);
    let low = if shares { (low - margin).max(0.0) } else { low - margin };
    let y = frame.y((low, high + margin));
    heading(drawing, frame, if shares { "Evaluation during training, %" } else { "Evaluation" });
    drawing.y_axis(y, 4, frame, |value, digits| figures::minus(format!("{value:.digits$}")));
    drawing.line("axis", (frame.left, frame.bottom), (frame.right, frame.bottom));
    let mut ends = Vec::new();
    for (index, (name, points)) in series.iter().enumerate() {
        let scaled: Vec<Point> = points.iter().map(|(s, v)| (*s, factor * v)).collect();
        drawing.path(SERIES[index % SERIES.len()], &place(&scaled, x, y), None);
        for point in &scaled {
            drawing.dot(DOTS[index % DOTS.len()], (x.at(point.0), y.at(point.1)), 3.5);
        }
        if let Some(last) = scaled.last() {
            ends.push((y.at(last.1) + 4.0, format!("{name} {:.1}", last.1)));
        }
    }
    for (y, text) in apart(ends) {
        drawing.label("name", (frame.right + 10.0, y), &text);
    }
}

/// Moves labels down until none covers another.
fn apart(mut labels: Vec<(f64, String)>) -> Vec<(f64, String)> {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    for index in 1..labels.len() {
        labels[index].0 = labels[index].0.max(labels[index - 1].0 + LABEL_HEIGHT);
    }
    labels
}

fn draw_rate(drawing: &mut Drawing<'_>, rate: &[Point], x: Scale, frame: &Frame) {
    let high = extent(rate.iter().map(|point| point.1)).map_or(1.0, |(_, high)| high);
    let y = frame.y((0.0, high));
    heading(drawing, frame, "Learning rate");
    for value in [0.0, high] {
        drawing.line("grid", (frame.left, y.at(value)), (frame.right, y.at(value)));
        let text = if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") };
        drawing.label("tick end", (frame.left - 8.0, y.at(value) + 4.0), &figures::minus(text));
    }
    drawing.path("area rate", &place(rate, x, y), Some(y.at(0.0)));
    drawing.path("line rate", &place(rate, x, y), None);
}

fn heading(drawing: &mut Drawing<'_>, frame: &Frame, text: &str) {
    drawing.label("heading", (0.0, frame.top - 16.0), text);
}

fn as_f64(step: u64) -> f64 {
    step as f64
}
