//! Whether a new model is kept: only if it is better where asked and not worse elsewhere.
//!
//! In:  a comparison and a [`Gate`]. Out: [`GateVerdict`] with one plain sentence.
//! Not here: the intervals (`bootstrap`), what happens to the model (`conjoin-cli`).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Change, Comparison, GateError, Metric, MetricComparison};

/// A metric of a task, written `task/metric`: `text_to_image/recall@10`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MetricName {
    /// The task's name.
    pub task: String,
    /// The metric.
    pub metric: Metric,
}

/// What must hold for a change to be kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// The metric that has to improve beyond noise.
    pub metric: MetricName,
    /// The least improvement of it, in the metric's own unit (0.01 is one percentage point), from
    /// 0 up.
    pub min_gain: f64,
    /// The most that the same metric may worsen in any other task, from 0 up.
    pub max_loss: f64,
}

/// The gate's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateVerdict {
    /// Whether the change is kept.
    pub keep: bool,
    /// Why, for people.
    pub sentence: String,
}

/// What a difference of two shares may be off by rounding; a gain of exactly the least is enough.
const ROUNDING: f64 = 1e-9;

impl Gate {
    /// Judges a comparison.
    ///
    /// Kept is a change whose gain in the primary metric is at least `min_gain` with a paired
    /// interval wholly above zero, while no other task loses more than `max_loss` of the same
    /// metric (the measured value, not its interval).
    ///
    /// # Errors
    /// When the metric was not measured, or only one model was.
    pub fn judge(&self, comparison: &Comparison) -> Result<GateVerdict, GateError> {
        let change = self.primary(comparison)?;
        let gain = self.metric.metric.gain(change.difference);
        let moved = self.describe(&change, comparison.bootstrap.level);
        let refusal = if gain <= 0.0 {
            Some("so it did not get better".to_owned())
        } else if !change.is_clear() {
            Some("which is within noise".to_owned())
        } else if gain < self.min_gain - ROUNDING {
            Some(format!("less than the {} asked for", self.amount(self.min_gain)))
        } else {
            self.worst_loss(comparison)
        };
        let sentence = match &refusal {
            Some(why) => format!("Not kept: {moved}, {why}."),
            None => format!("Kept: {moved}{}.", self.others(comparison)),
        };
        Ok(GateVerdict { keep: refusal.is_none(), sentence })
    }

    fn primary(&self, comparison: &Comparison) -> Result<Change, GateError> {
        let not_measured = || {
            let names: Vec<&str> = comparison.tasks.iter().map(|task| task.name.as_str()).collect();
            GateError::NotMeasured { name: self.metric.to_string(), available: names.join(", ") }
        };
        let task = comparison.task(&self.metric.task).ok_or_else(not_measured)?;
        let entry = task.metric(self.metric.metric).ok_or_else(not_measured)?;
        entry.change.ok_or(GateError::NoBefore)
    }

    /// `recall@10 of search rose from 61.2 % to 68.9 % (+7.7 points; 95 % interval +5.1 to +10.2)`.
    fn describe(&self, change: &Change, level: f64) -> String {
        let MetricName { task, metric } = &self.metric;
        let value = |value| format!("{}{}", metric.display(value), metric.unit());
        let difference = |value| metric.display_difference(value);
        let (before, after) = (change.before.value, change.before.value + change.difference);
        let verb = match change.difference {
            d if d > 0.0 => "rose",
            d if d < 0.0 => "fell",
            _ => return format!("{metric} of {task} stayed at {}", value(before)),
        };
        format!(
            "{metric} of {task} {verb} from {} to {} ({} {}; {:.0} % interval {} to {})",
            value(before),
            value(after),
            difference(change.difference),
            metric.difference_unit(),
            100.0 * level,
            difference(change.interval.low),
            difference(change.interval.high),
        )
    }

    fn amount(&self, amount: f64) -> String {
        let metric = self.metric.metric;
        format!("{} {}", metric.display(amount), metric.difference_unit())
    }

    /// The same metric of the other tasks, with the task's name.
    fn other_tasks<'a>(
        &'a self,
        comparison: &'a Comparison,
    ) -> impl Iterator<Item = (&'a str, &'a MetricComparison)> {
        comparison
            .tasks
            .iter()
            .filter(|task| task.name != self.metric.task)
            .filter_map(|task| Some((task.name.as_str(), task.metric(self.metric.metric)?)))
    }

    /// The largest loss beyond the tolerance, told as half a sentence.
    fn worst_loss(&self, comparison: &Comparison) -> Option<String> {
        let metric = self.metric.metric;
        let loss = |entry: &MetricComparison| Some(-metric.gain(entry.change?.difference));
        let (loss, task) = self
            .other_tasks(comparison)
            .filter_map(|(task, entry)| Some((loss(entry)?, task)))
            .filter(|(loss, _)| *loss > self.max_loss + ROUNDING)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        let (loss, limit) = (self.amount(loss), self.amount(self.max_loss));
        Some(format!("but {metric} of {task} got worse by {loss}, where {limit} are allowed"))
    }

    fn others(&self, comparison: &Comparison) -> String {
        match self.other_tasks(comparison).count() {
            0 => String::new(),
            _ => format!(", and no other task lost more than {}", self.amount(self.max_loss)),
        }
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.task, self.metric)
    }
}

impl FromStr for MetricName {
    type Err = GateError;

    fn from_str(text: &str) -> Result<Self, GateError> {
        let parse = || {
            let (task, metric) = text.rsplit_once('/')?;
            let metric = Metric::from_name(metric)?;
            (!task.is_empty()).then(|| Self { task: task.to_owned(), metric })
        };
        parse().ok_or_else(|| GateError::Name(text.to_owned()))
    }
}

impl TryFrom<String> for MetricName {
    type Error = GateError;

    fn try_from(text: String) -> Result<Self, GateError> {
        text.parse()
    }
}

impl From<MetricName> for String {
    fn from(name: MetricName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests;
