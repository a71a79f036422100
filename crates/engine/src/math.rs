//! Elementary functions that vectorise, and the activations made of them.
//!
//! In:  one `f32`. Out: one `f32`, branch-free, so that loops over them become vector code.
//! Accuracy against `f64` is tested at the end of this file.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use pulp::{Arch, Simd, WithSimd};
use serde::{Deserialize, Serialize};

/// A pointwise non-linearity, fused behind a linear or convolution operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `z`
    Identity,
    /// `min(max(z, 0), 6)`
    Relu6,
    /// `max(z, 0)`
    Relu,
    /// `tanh(z)`
    Tanh,
    /// `z · σ(z)`
    Silu,
    /// `z · Φ(z)`, the exact form (Hendrycks & Gimpel 2016).
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `z · σ(1.702 z)`, CLIP's.
    QuickGelu,
}

impl Activation {
    /// Whether the derivative can be told from the output alone, so that `z` need not be kept.
    pub(crate) fn derivative_from_output(self) -> bool {
        match self {
            Self::Identity | Self::Relu6 | Self::Relu | Self::Tanh => true,
            Self::Silu | Self::Gelu | Self::GeluTanh | Self::QuickGelu => false,
        }
    }

    /// Applies it to every value in place.
    pub(crate) fn apply(self, z: &mut [f32]) {
        if self != Self::Identity {
            Arch::new().dispatch(Apply { activation: self, z });
        }
    }

    /// Applies it to the values of a vector.
    #[inline(always)]
    pub(crate) fn of<S: Simd>(self, simd: S, z: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        match self {
            Self::Identity => z,
            Self::Relu6 => {
                let six = simd.splat_f32s(6.0);
                let z = simd.select_f32s(simd.greater_than_f32s(z, zero), z, zero);
                simd.select_f32s(simd.less_than_f32s(z, six), z, six)
            }
            Self::Relu => simd.select_f32s(simd.greater_than_f32s(z, zero), z, zero),
            Self::Tanh => {
                let s = sigmoid_of(simd, simd.add_f32s(z, z));
                simd.sub_f32s(simd.add_f32s(s, s), simd.splat_f32s(1.0))
            }
            Self::Silu => simd.mul_f32s(z, sigmoid_of(simd, z)),
            Self::Gelu => simd.mul_f32s(z, normal_cdf_of(simd, z).0),
            Self::GeluTanh => simd.mul_f32s(z, gelu_tanh_gate_of(simd, z)),
            Self::QuickGelu => {
                simd.mul_f32s(z, sigmoid_of(simd, simd.mul_f32s(z, simd.splat_f32s(1.702))))
            }
        }
    }

    /// Multiplies `gradient` by the derivative at `kept`: the outputs where
    /// [`Activation::derivative_from_output`], else the inputs.
    pub(crate) fn scale_gradient(self, gradient: &mut [f32], kept: &[f32]) {
        if self != Self::Identity {
            Arch::new().dispatch(ScaleGradient { activation: self, gradient, kept });
        }
    }

    /// The derivative at the values of a vector, as [`Activation::scale_gradient`] takes them.
    #[inline(always)]
    pub(crate) fn derivative_of<S: Simd>(self, simd: S, kept: S::f32s) -> S::f32s {
        let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
        // `s + z u' s (1 − s)` of `z σ(u)`
        let of_gate = |s: S::f32s, slope: S::f32s| {
            let bent = simd.mul_f32s(simd.mul_f32s(kept, slope), simd.sub_f32s(one, s));
            simd.mul_add_e_f32s(bent, s, s)
        };
        match self {
            Self::Identity => one,
            Self::Relu6 => {
                let above = simd.select_f32s(simd.greater_than_f32s(kept, zero), one, zero);
                simd.select_f32s(simd.less_than_f32s(kept, simd.splat_f32s(6.0)), above, zero)
            }
            Self::Relu => simd.select_f32s(simd.greater_than_f32s(kept, zero), one, zero),
            Self::Tanh => simd.sub_f32s(one, simd.mul_f32s(kept, kept)),
            Self::Silu => of_gate(sigmoid_of(simd, kept), one),
            Self::Gelu => {
                let (cdf, density) = normal_cdf_of(simd, kept);
                let density = simd.mul_f32s(density, simd.splat_f32s(INV_SQRT_TAU));
                simd.mul_add_e_f32s(kept, density, cdf)
            }
            Self::GeluTanh => {
                let square = simd.mul_f32s(kept, kept);
                let bend = simd.mul_add_e_f32s(square, simd.splat_f32s(3.0 * CUBIC), one);
                let slope = simd.mul_f32s(bend, simd.splat_f32s(2.0 * SQRT_2_OVER_PI));
                of_gate(gelu_tanh_gate_of(simd, kept), slope)
            }
            Self::QuickGelu => {
                let slope = simd.splat_f32s(1.702);
                of_gate(sigmoid_of(simd, simd.mul_f32s(kept, slope)), slope)
            }
        }
    }
}

struct ScaleGradient<'a> {
    activation: Activation,
    gradient: &'a mut [f32],
    kept: &'a [f32],
}

impl WithSimd for ScaleGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (whole, rest) = S::as_mut_simd_f32s(self.gradient);
        let (kept, rest_kept) = S::as_simd_f32s(self.kept);
        for (g, kept) in whole.iter_mut().zip(kept) {
            *g = simd.mul_f32s(*g, self.activation.derivative_of(simd, *kept));
        }
        let last = self.activation.derivative_of(simd, simd.partial_load_f32s(rest_kept));
        let last = simd.mul_f32s(simd.partial_load_f32s(rest), last);
        simd.partial_store_f32s(rest, last);
    }
}

struct Apply<'a> {
    activation: Activation,
    z: &'a mut [f32],
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (whole, rest) = S::as_mut_simd_f32s(self.z);
        for z in whole {
            *z = self.activation.of(simd, *z);
        }
        let last = self.activation.of(simd, simd.partial_load_f32s(rest));
        simd.partial_store_f32s(rest, last);
    }
}

/// [`exp()`] of the values of a vector, with fused multiply-adds where the machine has them.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the constants are Cephes' as published")]
pub(crate) fn exp_of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |x: f32| simd.splat_f32s(x);
    let x = simd.min_f32s(simd.max_f32s(x, splat(-87.0)), splat(88.0));
    let shifted = simd.mul_add_e_f32s(x, splat(LOG2_E), splat(SHIFT));
    let n = simd.sub_f32s(shifted, splat(SHIFT));
    let r = simd.mul_add_e_f32s(n, splat(-0.693_359_375), x);
    let r = simd.mul_add_e_f32s(n, splat(2.121_944_4e-4), r);
    let mut p = splat(1.987_569_15e-4);
    for c in [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 5.000_000_1e-1] {
        p = simd.mul_add_e_f32s(p, r, splat(c));
    }
    let p = simd.mul_add_e_f32s(p, simd.mul_f32s(r, r), simd.add_f32s(r, splat(1.0)));
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let two_to_n = simd.add_u32s(exponent, simd.splat_u32s(0x3f80_0000));
    simd.mul_f32s(p, simd.transmute_f32s_u32s(two_to_n))
}

#[inline(always)]
fn sigmoid_of<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp_of(simd, simd.neg_f32s(x))))
}

/// The normal distribution function Φ, absolute error below 2e-7, and `e^(−x²/2)`.
///
/// Source: Abramowitz & Stegun 7.1.26 for erf.
#[inline(always)]
fn normal_cdf_of<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let splat = |x: f32| simd.splat_f32s(x);
    let z = simd.mul_f32s(simd.abs_f32s(x), splat(FRAC_1_SQRT_2));
    let t = simd.div_f32s(splat(1.0), simd.mul_add_e_f32s(z, splat(0.327_591_1), splat(1.0)));
    let mut p = splat(1.061_405_4);
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = simd.mul_add_e_f32s(p, t, splat(c));
    }
    let half_t = simd.mul_f32s(t, splat(0.5));
    let density = exp_of(simd, simd.mul_f32s(simd.neg_f32s(z), z));
    let tail = simd.mul_f32s(simd.mul_f32s(p, half_t), density);
    let upper = simd.sub_f32s(splat(1.0), tail);
    (simd.select_f32s(simd.greater_than_f32s(x, splat(0.0)), upper, tail), density)
}

/// `(1 + tanh u) / 2 = σ(2u)` with `u = √(2/π) (z + 0.044715 z³)`
#[inline(always)]
fn gelu_tanh_gate_of<S: Simd>(simd: S, z: S::f32s) -> S::f32s {
    let cubic = simd.mul_f32s(simd.mul_f32s(z, z), simd.splat_f32s(CUBIC));
    let u = simd.mul_add_e_f32s(cubic, z, z);
    sigmoid_of(simd, simd.mul_f32s(u, simd.splat_f32s(2.0 * SQRT_2_OVER_PI)))
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const INV_SQRT_TAU: f32 = 0.398_942_3;
const CUBIC: f32 = 0.044_715;

/// 1.5 · 2²³: adding it rounds to an integer in the low bits.
pub(crate) const SHIFT: f32 = 12_582_912.0;

/// `e^x`, relative error below 2e-7; saturates outside ±87.
///
/// Cephes' range reduction and polynomial, with the exponent taken from the bits of a shifted sum.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the constants are Cephes' as published")]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * 0.693_359_375 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_15e-4_f32;
    for c in [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 5.000_000_1e-1] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    p * two_to_n
}

/// `2^x` of numbers up to 127, relative error below 2e-7; `2^-126` below -126.
///
/// Cephes' polynomial, with the exponent taken from the bits of a shifted sum.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the constants are Cephes' as published")]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let (least, shift) = (simd.splat_f32s(-126.0), simd.splat_f32s(SHIFT));
    let x = simd.select_f32s(simd.less_than_f32s(x, least), least, x);
    let shifted = simd.add_f32s(x, shift);
    let r = simd.sub_f32s(x, simd.sub_f32s(shifted, shift));
    let mut p = simd.splat_f32s(1.535_336_188_319_5e-4);
    for c in [
        1.339_887_440_266_574e-3,
        9.618_437_357_674_64e-3,
        5.550_332_471_162_809e-2,
        2.402_264_791_363_012e-1,
        6.931_472_028_550_421e-1,
        1.0,
    ] {
        p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(c));
    }
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let two_to_n = simd.add_u32s(exponent, simd.splat_u32s(0x3f80_0000));
    simd.mul_f32s(p, simd.transmute_f32s_u32s(two_to_n))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ by its series (|x| small) or continued integration in f64: the oracle.
    fn normal_cdf_f64(x: f64) -> f64 {
        let steps = 4000;
        let width = x / f64::from(steps);
        let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
        // Simpson's rule from 0 to x.
        let inner: f64 = (1..steps)
            .map(|i| density(width * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 })
            .sum();
        0.5 + (density(0.0) + inner + density(x)) * width / 3.0
    }

    #[test]
    fn exp_agrees_with_f64() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let relative = f64::from(exp(x)) / f64::from(x).exp() - 1.0;
            assert!(relative.abs() < 2e-7, "exp({x}) is off by {relative}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e4) < 1e-37 && exp(1e4) > 1e38, "saturates");
    }

    #[test]
    fn exp2_agrees_with_f64() {
        struct Exp2(f32);
        impl pulp::WithSimd for Exp2 {
            type Output = f32;
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) -> f32 {
                simd.reduce_max_f32s(exp2(simd, simd.splat_f32s(self.0)))
            }
        }
        let at = |x: f32| pulp::Arch::new().dispatch(Exp2(x));
        for i in -12600..12700 {
            let x = i as f32 * 0.01;
            let relative = f64::from(at(x)) / f64::from(x).exp2() - 1.0;
            assert!(relative.abs() < 2e-7, "exp2({x}) is off by {relative}");
            let scalar = exp2(pulp::Scalar, x);
            assert!((scalar / at(x) - 1.0).abs() < 2e-7, "exp2({x}) on one lane");
        }
        assert_eq!((at(0.0), at(-3.0), at(1.0)), (1.0, 0.125, 2.0));
        assert_eq!(at(f32::NEG_INFINITY), at(-126.0));
        assert!(exp2(pulp::Scalar, f32::NAN).is_nan());
    }

    #[test]
    fn gelu_agrees_with_f64() {
        for i in -800..=800 {
            let x = i as f32 * 0.01;
            let mut y = [x];
            Activation::Gelu.apply(&mut y);
            let expected = f64::from(x) * normal_cdf_f64(f64::from(x));
            assert!((f64::from(y[0]) - expected).abs() < 5e-7 * (1.0 + expected.abs()), "at {x}");
        }
    }

    #[test]
    fn tanh_and_silu_agree_with_f64() {
        for i in -2000..=2000 {
            let x = i as f32 * 0.01;
            let mut y = [x];
            Activation::Tanh.apply(&mut y);
            assert!((f64::from(y[0]) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
            let mut y = [x];
            Activation::Silu.apply(&mut y);
            let expected = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(y[0]) - expected).abs() < 4e-7 * (1.0 + expected.abs()), "{x}");
        }
    }

    #[test]
    fn derivatives_agree_with_finite_differences() {
        use Activation::{Gelu, GeluTanh, Identity, QuickGelu, Relu, Relu6, Silu, Tanh};
        for activation in [Identity, Relu6, Relu, Tanh, Silu, Gelu, GeluTanh, QuickGelu] {
            for i in -40..=70 {
                let x = i as f32 * 0.1 + 0.033;
                let at = |x: f32| {
                    let mut y = [x];
                    activation.apply(&mut y);
                    y[0]
                };
                let step = 1e-2;
                let numeric = (at(x + step) - at(x - step)) / (2.0 * step);
                let kept = if activation.derivative_from_output() { at(x) } else { x };
                let mut gradient = [1.0];
                activation.scale_gradient(&mut gradient, &[kept]);
                assert!((gradient[0] - numeric).abs() < 2e-3, "{activation:?} at {x}");
            }
        }
    }

    #[test]
    fn stays_finite_far_out() {
        use Activation::{Gelu, GeluTanh, QuickGelu};
        for activation in [Gelu, GeluTanh, QuickGelu] {
            let mut y = [-1e4, -100.0, 0.0, 100.0, 1e4];
            activation.apply(&mut y);
            assert_eq!((y[2], y[3], y[4]), (0.0, 100.0, 1e4));
            assert!(y[0].abs() < 1e-3 && y[1].abs() < 1e-3, "{activation:?}: {y:?}");
        }
    }
}
