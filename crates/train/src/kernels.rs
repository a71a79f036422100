//! Elementwise f32 loops that the compiler turns into vectors, and sums of fixed order.
//!
//! In:  slices. Out: values whose bits do not depend on threads.
//! Not here: matrix products (`matmul`).

use pulp::Arch;

/// Below this the exponential is zero: the smallest normal f32 is `exp(-87.34)`.
const EXP_MIN: f32 = -87.3;
/// Above this the exponential is clamped, so that the exponent of 2ⁿ stays below 128.
const EXP_MAX: f32 = 88.3;
/// Adding and subtracting it rounds to the nearest whole number (1.5 · 2²³).
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has few bits, so that its multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `exp(x)` without branches, within 2 ulp; exactly 0 below -87.3 and clamped above 88.3.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(EXP_MIN, EXP_MAX);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    // Taylor's series; |r| ≤ ln 2 / 2 makes the first term left out smaller than 6e-9.
    let mut series = 1.0 / 5_040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    // The low bits of `shifted` are n; they become the exponent of 2ⁿ.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < EXP_MIN { 0.0 } else { series * power }
}

/// Runs a loop compiled for the widest vectors of this CPU.
#[inline(always)]
pub(crate) fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    struct Body<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Body<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Body(body))
}

/// Lanes of the running sums: one 512-bit vector.
const LANES: usize = 16;

/// The sum of squares, in f64 and a fixed order.
#[inline(always)]
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*value) * f64::from(*value);
    }
    lanes.iter().sum()
}

/// The inner product, in f64 and a fixed order.
#[inline(always)]
pub(crate) fn inner_product(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += f64::from(*a) * f64::from(*b);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += f64::from(*a) * f64::from(*b);
    }
    lanes.iter().sum()
}

/// The largest value; `f32::MIN` when there is none.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::MIN; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = if *value > *lane { *value } else { *lane };
    }
    lanes.iter().fold(f32::MIN, |a, b| a.max(*b))
}

/// `Σ exp(x - shift)`, in a fixed order; the running sums are f32, so keep slices short.
#[inline(always)]
pub(crate) fn sum_exp(values: &[f32], shift: f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += exp(*value - shift);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += exp(*value - shift);
    }
    lanes.iter().map(|lane| f64::from(*lane)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_standard_library() {
        for step in -87_000..=88_000_i32 {
            let x = step as f32 / 1_000.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_is_zero_or_finite_at_the_ends() {
        for x in [-88.0, -1e4, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp(x), 0.0, "exp({x})");
        }
        assert!(exp(1e4).is_finite() && exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_agree_with_plain_loops() {
        for n in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.3).cos()).collect();
            let dot: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let exps: f64 = a.iter().map(|x| f64::from(*x - 0.5).exp()).sum();
            assert!((inner_product(&a, &b) - dot).abs() < 1e-12);
            assert!((sum_of_squares(&a) - inner_product(&a, &a)).abs() < 1e-12);
            assert!((sum_exp(&a, 0.5) - exps).abs() < 1e-5);
            assert_eq!(max(&a), a.iter().fold(f32::MIN, |m, x| m.max(*x)));
        }
    }
}
