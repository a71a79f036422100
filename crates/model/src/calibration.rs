//! Which precision serves a model: measured on a sample of its inputs.
//!
//! In:  a tower and inputs. Out: how near the vectors of each precision are to those of `f32`, how long
//! they take, and the fastest of those that are near enough.
//! Where bytes are too coarse, the weights whose products they change most stay in bf16: as few as make
//! the vectors near enough, found by halving.

use std::time::{Duration, Instant};

use conjoin_core::{EmbedError, Embeddings, Interrupted, Stop, Task, Tower, TowerError};
use conjoin_engine::{ParamId, Precision, Workspace};
use serde::Serialize;

use crate::{ModelErrorKind, ModelPrecision, TowerPrecision};

/// Whether vectors of a precision are near enough to those of `f32`: smallest and mean cosine.
fn is_near((least, mean): (f64, f64), precision: Precision) -> bool {
    match precision {
        Precision::F32 => true,
        Precision::Bf16 => least >= 0.9995,
        Precision::Int8 => least >= 0.99 && mean >= 0.995,
    }
}

/// Vectors narrower than this are scores, which are compared over the sample.
const NARROWEST_VECTOR: usize = 8;

/// How long timing a precision goes on, and for how many passes at most.
const TIMING: (Duration, usize) = (Duration::from_millis(500), 5);

/// One precision of a tower, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasuredPrecision {
    /// How products were computed.
    #[serde(flatten)]
    pub precision: TowerPrecision,
    /// The smallest cosine of a vector to that of `f32`; of scores, their correlation.
    pub min_cosine: f64,
    /// The mean cosine.
    pub mean_cosine: f64,
    /// The shortest time of a pass over the sample.
    pub seconds: f64,
    /// Bytes of the packed weights.
    pub packed_bytes: usize,
    /// Whether the vectors are near enough.
    pub accepted: bool,
}

/// The precisions of a tower, measured on a sample of its inputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TowerCalibration {
    /// How many inputs were measured on.
    pub n_inputs: usize,
    /// The precisions, `f32` first.
    pub measured: Vec<MeasuredPrecision>,
    /// The place of the chosen one.
    pub chosen: usize,
}

impl TowerCalibration {
    /// The fastest precision of those that are near enough.
    #[must_use]
    pub fn chosen(&self) -> &MeasuredPrecision {
        &self.measured[self.chosen]
    }
}

/// The towers of a model, calibrated. A tower without inputs is not there.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelCalibration {
    /// The tower that reads texts; that of a model that ranks, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TowerCalibration>,
    /// The tower that sees pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<TowerCalibration>,
}

impl ModelCalibration {
    /// The chosen precision of each tower.
    #[must_use]
    pub fn precision(&self) -> ModelPrecision {
        let chosen = |tower: &TowerCalibration| tower.chosen().precision.clone();
        ModelPrecision {
            text: self.text.as_ref().map(chosen),
            image: self.image.as_ref().map(chosen),
        }
    }
}

/// Inputs of a model to measure on, such as it will have to embed; the first of them are taken.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Texts.
    pub texts: Vec<String>,
    /// What the texts are for.
    pub task: Task,
    /// Picture files.
    pub images: Vec<Vec<u8>>,
}

/// Why a calibration ended early.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// An input could not be embedded.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// It was asked to stop.
    #[error(transparent)]
    Stopped(#[from] Interrupted),
}

impl From<TowerError> for CalibrationError {
    fn from(error: TowerError) -> Self {
        Self::Embed(error.into())
    }
}

/// The most inputs that are measured on.
pub const SAMPLE_SIZE: usize = 64;
/// The most tokens that are measured on; an input more is taken as long as there are less.
const SAMPLE_TOKENS: usize = 8192;

/// The first inputs, as many as are measured on.
pub(crate) fn sampled<T>(inputs: Vec<T>, n_tokens: impl Fn(&T) -> usize) -> Vec<T> {
    let mut tokens = 0;
    let is_within = |input: &T| {
        let is_within = tokens < SAMPLE_TOKENS;
        tokens += n_tokens(input);
        is_within
    };
    inputs.into_iter().take(SAMPLE_SIZE).take_while(is_within).collect()
}

/// A tower whose way of computing products can be exchanged.
pub(crate) trait Precise: Tower {
    /// Memory and packed weights.
    fn workspace_mut(&mut self) -> &mut Workspace;

    /// What a precision means for this kind of tower: products that are known to need it stay finer.
    fn usual(&self, precision: Precision) -> TowerPrecision {
        precision.into()
    }

    /// Computes products as told from now on; exceptions name parameters of it.
    fn use_precision(&mut self, precision: &TowerPrecision) {
        let ids = self.parameters().iter().enumerate();
        let exceptions =
            ids.filter_map(|(i, p)| Some((ParamId(i), *precision.exceptions.get(&p.name)?)));
        *self.workspace_mut() = Workspace::new(precision.precision, exceptions.collect());
    }

    /// As [`Precise::use_precision`], for exceptions of which nothing is known.
    fn try_precision(&mut self, precision: &TowerPrecision) -> Result<(), ModelErrorKind> {
        precision.check(self.parameters())?;
        self.use_precision(precision);
        Ok(())
    }
}

/// Measures the precisions of a tower and leaves it in the fastest that is near enough to `f32`, in the
/// first `width` numbers of its vectors.
pub(crate) fn calibrate<T: Precise>(
    tower: &mut T,
    inputs: &[&T::Input],
    width: usize,
    stop: &Stop,
) -> Result<TowerCalibration, CalibrationError> {
    let mut bench = Bench { tower, inputs, width, stop, exact: Embeddings::zeros(0, width) };
    let mut measured = vec![bench.measure(Precision::F32.into())?];
    for (coarse, fine) in [(Precision::Bf16, Precision::F32), (Precision::Int8, Precision::Bf16)] {
        let usual = bench.tower.usual(coarse);
        if measured.iter().any(|m| m.precision == usual) {
            continue;
        }
        let usual = bench.measure(usual)?;
        let mixed = if usual.accepted { None } else { bench.mixed(coarse, fine)? };
        measured.push(usual);
        measured.extend(mixed);
    }
    let fastest = |(_, a): &(usize, &MeasuredPrecision), (_, b): &(usize, &MeasuredPrecision)| {
        a.seconds.total_cmp(&b.seconds)
    };
    let accepted = measured.iter().enumerate().filter(|(_, m)| m.accepted);
    let chosen = accepted.min_by(fastest).map_or(0, |(place, _)| place);
    tower.use_precision(&measured[chosen].precision);
    Ok(TowerCalibration { n_inputs: inputs.len(), measured, chosen })
}

/// A tower and the sample it is measured on.
struct Bench<'a, T: Precise> {
    tower: &'a mut T,
    inputs: &'a [&'a T::Input],
    width: usize,
    stop: &'a Stop,
    /// The vectors in `f32`; none before those were measured.
    exact: Embeddings,
}

impl<T: Precise> Bench<'_, T> {
    /// Nearness and speed of a precision. The first must be `f32`.
    fn measure(
        &mut self,
        precision: TowerPrecision,
    ) -> Result<MeasuredPrecision, CalibrationError> {
        let found = self.embed(&precision)?;
        if self.exact.is_empty() {
            self.exact = found.clone();
        }
        let (min_cosine, mean_cosine) = nearness(&self.exact, &found);
        let seconds = self.time()?;
        let packed_bytes = self.tower.workspace_mut().packed_bytes();
        let accepted = is_near((min_cosine, mean_cosine), precision.precision);
        Ok(MeasuredPrecision {
            precision,
            min_cosine,
            mean_cosine,
            seconds,
            packed_bytes,
            accepted,
        })
    }

    fn embed(&mut self, precision: &TowerPrecision) -> Result<Embeddings, CalibrationError> {
        self.stop.check()?;
        self.tower.use_precision(precision);
        Ok(self.tower.embed(self.inputs)?.cut(self.width))
    }

    /// The shortest of a few passes, in seconds.
    fn time(&mut self) -> Result<f64, CalibrationError> {
        let (enough, most) = TIMING;
        let begun = Instant::now();
        let mut shortest = Duration::MAX;
        for _ in 0..most {
            self.stop.check()?;
            let pass = Instant::now();
            self.tower.embed(self.inputs)?;
            shortest = shortest.min(pass.elapsed());
            if begun.elapsed() >= enough {
                break;
            }
        }
        Ok(shortest.as_secs_f64())
    }

    /// A precision, but for a finer one with the fewest weights whose products it changes most.
    fn mixed(
        &mut self,
        coarse: Precision,
        fine: Precision,
    ) -> Result<Option<MeasuredPrecision>, CalibrationError> {
        let ranked = self.by_deviation(coarse)?;
        let plan = |n: usize| TowerPrecision {
            precision: coarse,
            exceptions: ranked[..n].iter().map(|name| (name.clone(), fine)).collect(),
        };
        // Too few exceptions, and enough of them.
        let (mut few, mut enough) = (0, ranked.len());
        while enough - few > 1 {
            let n = usize::midpoint(few, enough);
            let found = self.embed(&plan(n))?;
            let is_near = is_near(nearness(&self.exact, &found), coarse);
            *if is_near { &mut enough } else { &mut few } = n;
        }
        // With every weight an exception nothing is left of the precision.
        (enough < ranked.len()).then(|| self.measure(plan(enough))).transpose()
    }

    /// The weights of products, the one whose products a precision changes most first.
    fn by_deviation(&mut self, precision: Precision) -> Result<Vec<String>, CalibrationError> {
        self.stop.check()?;
        *self.tower.workspace_mut() = Workspace::trying(precision);
        self.tower.embed(self.inputs)?;
        let mut ranked: Vec<_> = self.tower.workspace_mut().deviations().into_iter().collect();
        ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let name = |id: usize| self.tower.parameters()[id].name.clone();
        Ok(ranked.into_iter().map(|(id, _)| name(id.0)).collect())
    }
}

/// The smallest and the mean cosine of rows; of rows too narrow to have a direction, the correlation of
/// the columns.
///
/// # Shapes
/// Both `[n, e]`.
#[must_use]
pub fn nearness(exact: &Embeddings, found: &Embeddings) -> (f64, f64) {
    let cosines: Vec<f64> = if exact.width() < NARROWEST_VECTOR {
        let columns = (0..exact.width()).map(|i| (column(exact, i), column(found, i)));
        columns.map(|(a, b)| cosine(&centred(a), &centred(b))).collect()
    } else {
        let wide = |row: &[f32]| row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        exact.rows().zip(found.rows()).map(|(a, b)| cosine(&wide(a), &wide(b))).collect()
    };
    let least = cosines.iter().copied().fold(1.0, f64::min);
    (least, cosines.iter().sum::<f64>() / (cosines.len().max(1)) as f64)
}

fn column(rows: &Embeddings, i: usize) -> Vec<f64> {
    rows.rows().map(|row| f64::from(row[i])).collect()
}

fn centred(mut values: Vec<f64>) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    values.iter_mut().for_each(|x| *x -= mean);
    values
}

/// 1 for equal vectors, of zeros too; 0 where only one of them is zeros.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    if a == b {
        return 1.0;
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}
