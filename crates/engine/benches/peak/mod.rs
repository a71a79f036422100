//! What a core can do at most: fused multiply-adds that touch no memory.

use std::hint::black_box;

use pulp::{Arch, Simd, WithSimd};

/// Independent chains, enough to hide an instruction's latency.
const CHAINS: usize = 24;

/// Does `steps` of every chain and gives the number of floating-point operations.
pub(crate) fn multiply_add(steps: usize) -> usize {
    Arch::new().dispatch(Chains { steps })
}

struct Chains {
    steps: usize,
}

impl WithSimd for Chains {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let x = simd.splat_f32s(black_box(0.999));
        let mut sums = [simd.splat_f32s(0.5); CHAINS];
        for _ in 0..self.steps {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, x, x);
            }
        }
        for sum in sums {
            black_box(simd.reduce_sum_f32s(sum));
        }
        2 * self.steps * CHAINS * S::F32_LANES
    }
}
