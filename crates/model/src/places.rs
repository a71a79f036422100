//! What an encoder knows of the places of tokens, beyond learned positions: rotary tables, biases by
//! distance, windows.
//!
//! In:  a spec. Out: the table, the reach and the bias of each layer, as long as the sequences at hand.

use std::sync::{Arc, Mutex, PoisonError};

use conjoin_engine::{DistanceBias, ParamId, RotaryTable};

use crate::{
    layout::{Init, Layout},
    spec::{EncoderInput, EncoderSpec, Local, Rotary, RotaryAxes, ScoreBias},
};

#[derive(Debug)]
pub(crate) struct Places {
    everywhere: Option<Turns>,
    nearby: Option<Turns>,
    local: Option<Local>,
    bias: Option<Bias>,
}

impl Places {
    pub(crate) fn declare(spec: &EncoderSpec, layout: &mut Layout) -> Self {
        let rule = &spec.attention;
        let turns = |theta: Option<f32>| {
            let rotary = rule.rotary?;
            let theta = theta.unwrap_or(rotary.theta);
            Some(Turns::new(spec, Rotary { theta, ..rotary }))
        };
        Self {
            everywhere: turns(None),
            nearby: rule.local.and_then(|local| turns(Some(local.theta))),
            local: rule.local,
            bias: Bias::declare(spec, layout),
        }
    }

    /// The rotary table of a layer for sequences of up to `longest` tokens, and how many tokens to each
    /// side it sees.
    pub(crate) fn of_layer(
        &self,
        layer: usize,
        longest: usize,
    ) -> (Option<Arc<RotaryTable>>, Option<usize>) {
        let (turns, reach) = match self.local {
            Some(local) if !layer.is_multiple_of(local.global_every) => {
                (&self.nearby, Some(local.reach))
            }
            Some(_) | None => (&self.everywhere, None),
        };
        (turns.as_ref().map(|turns| turns.table(longest)), reach)
    }

    /// What is added to the scores of sequences of up to `longest` tokens.
    pub(crate) fn bias(&self, longest: usize) -> Option<DistanceBias> {
        self.bias.as_ref().map(|bias| bias.up_to(longest))
    }
}

/// A table for the longest sequence seen. A model may allow sequences far longer than any it is given:
/// its tables cost what is used of them.
#[derive(Debug)]
struct Growing<T: ?Sized>(Mutex<(usize, Arc<T>)>);

impl<T: ?Sized> Growing<T> {
    fn new(empty: Arc<T>) -> Self {
        Self(Mutex::new((0, empty)))
    }

    /// The table for `longest` or more, made anew where it is too short.
    fn up_to(&self, longest: usize, make: impl FnOnce(usize) -> Arc<T>) -> Arc<T> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 < longest {
            let size = longest.next_power_of_two();
            *made = (size, make(size));
        }
        made.1.clone()
    }
}

/// Angles of the places of one kind of layer.
#[derive(Debug)]
struct Turns {
    rotary: Rotary,
    pairs: usize,
    input: EncoderInput,
    table: Growing<RotaryTable>,
}

impl Turns {
    fn new(spec: &EncoderSpec, rotary: Rotary) -> Self {
        let pairs = spec.width / spec.attention.heads / 2;
        let empty = Arc::new(RotaryTable::new(&[], pairs, rotary.pairing));
        Self { rotary, pairs, input: spec.input.clone(), table: Growing::new(empty) }
    }

    fn table(&self, longest: usize) -> Arc<RotaryTable> {
        let (pairs, pairing) = (self.pairs, self.rotary.pairing);
        let theta = f64::from(self.rotary.theta);
        self.table.up_to(longest, |positions| match (self.rotary.axes, &self.input) {
            (
                RotaryAxes::Grid { extent },
                &EncoderInput::Patches { image_size, patch_size, class_token, .. },
            ) => {
                let (side, extent) = (image_size / patch_size, f64::from(extent));
                let angles = grid_angles(side, class_token, extent, pairs, theta);
                Arc::new(RotaryTable::new(&angles, pairs, pairing))
            }
            (RotaryAxes::Sequence | RotaryAxes::Grid { .. }, _) => {
                Arc::new(RotaryTable::sequence(positions, pairs, theta, pairing))
            }
        })
    }
}

#[derive(Debug)]
enum Bias {
    Alibi(Arc<[f32]>),
    Buckets { table: ParamId, buckets: usize, max_distance: usize, bucket_of: Growing<[usize]> },
}

impl Bias {
    fn declare(spec: &EncoderSpec, layout: &mut Layout) -> Option<Self> {
        let heads = spec.attention.heads;
        match spec.attention.score_bias {
            ScoreBias::None => None,
            ScoreBias::Alibi => Some(Self::Alibi(alibi_slopes(heads).into())),
            ScoreBias::Buckets { buckets, max_distance } => {
                let init = Init::Normal { std: 0.02 };
                let table = layout.declare("distances.weight", &[buckets, heads], init, false);
                let bucket_of = Growing::new(Arc::from([]));
                Some(Self::Buckets { table, buckets, max_distance, bucket_of })
            }
        }
    }

    fn up_to(&self, longest: usize) -> DistanceBias {
        match self {
            Self::Alibi(slopes) => DistanceBias::Alibi(slopes.clone()),
            Self::Buckets { table, buckets, max_distance, bucket_of } => {
                let make = |n: usize| {
                    let distances = 1 - n as i64..n as i64;
                    distances.map(|d| bucket(d, *buckets, *max_distance)).collect()
                };
                DistanceBias::Buckets { table: *table, bucket_of: bucket_of.up_to(longest, make) }
            }
        }
    }
}

/// Half of the pairs turn with the row, half with the column; the class token does not turn.
fn grid_angles(side: usize, class_token: bool, extent: f64, pairs: usize, theta: f64) -> Vec<f64> {
    let per_axis = pairs / 2;
    let rate = |i: usize| theta.powf(-(i as f64) / per_axis as f64);
    let axis = |p: usize| (0..per_axis).map(move |i| p as f64 * extent / side as f64 * rate(i));
    let class = vec![0.0; if class_token { pairs } else { 0 }];
    let patches = (0..side * side).flat_map(|p| axis(p / side).chain(axis(p % side)));
    class.into_iter().chain(patches).collect()
}

/// The slopes of Press et al. 2022: powers of two for a power of two of heads; for other numbers the
/// remaining heads get every second slope of twice as many.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let of_power = |n: usize| (1..=n).map(move |i| 2_f64.powf(-8.0 * i as f64 / n as f64) as f32);
    let whole = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    of_power(whole).chain(of_power(2 * whole).step_by(2).take(heads - whole)).collect()
}

/// The bucket of a distance `j − i`: near ones have their own, far ones share in steps of a logarithm;
/// the second half is for keys behind the query (`j > i`). In `f32` as the reference.
fn bucket(distance: i64, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let n = distance.unsigned_abs() as usize;
    let near = if n < exact {
        n
    } else {
        let span = ((max_distance as f64 / exact as f64).ln()) as f32;
        let step = (n as f32 / exact as f32).ln() / span * (half - exact) as f32;
        (exact + step as usize).min(half - 1)
    };
    near + if distance > 0 { half } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_grows_with_the_longest_sequence_and_not_before() {
        let (table, mut made) = (Growing::<[usize]>::new(Arc::from([])), Vec::new());
        for longest in [5, 3, 8, 9, 16] {
            let found = table.up_to(longest, |n| {
                made.push(n);
                (0..n).collect()
            });
            assert!(found.len() >= longest);
        }
        assert_eq!(made, [8, 16]);
    }

    #[test]
    fn slopes_of_twelve_heads_are_the_published_ones() {
        let expected = (1..=8).map(|i| -f64::from(i)).chain([-0.5, -1.5, -2.5, -3.5]);
        let slopes = alibi_slopes(12);
        assert_eq!(slopes.len(), 12);
        for (slope, power) in slopes.iter().zip(expected) {
            assert!((f64::from(*slope) - 2_f64.powf(power)).abs() < 1e-7);
        }
    }

    #[test]
    fn buckets_are_those_of_the_reference() {
        // transformers' MPNet with 32 buckets and 128 tokens, for keys before and behind the query.
        let before =
            [(0, 0), (1, 1), (7, 7), (8, 8), (11, 8), (12, 9), (16, 10), (64, 14), (500, 15)];
        for (n, expected) in before {
            assert_eq!(bucket(-n, 32, 128), expected, "{n} before");
            let behind = if n == 0 { 0 } else { expected + 16 };
            assert_eq!(bucket(n, 32, 128), behind, "{n} behind");
        }
    }

    #[test]
    fn a_grid_turns_by_row_and_column_and_not_at_the_class_token() {
        let angles = grid_angles(2, true, 2.0, 2, 100.0);
        assert_eq!(angles, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
        let spread = grid_angles(2, false, 3.0, 2, 100.0);
        assert_eq!(spread[6..], [1.5, 1.5]);
    }
}
