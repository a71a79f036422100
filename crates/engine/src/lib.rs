//! CPU compute: buffers, fused operations with hand-written backward, and a small tape.
//!
//! In:  [`Tensor`]s and the parameters of a model. Out: [`Tensor`]s, and gradients of the parameters.
//! Not here: which operations a model is made of (`conjoin-model`), losses (`conjoin-train`).
//!
//! A model's forward is written once, over the methods of [`Exec`]. Made with [`Exec::inferring`] it
//! keeps nothing and reuses buffers; made with [`Exec::recording`] it also writes a [`Tape`], and
//! [`Tape::backward`] turns `dL/dy` into gradients of the parameters.
//!
//! Legend of shapes: `b` batch, `t` tokens, `d` width, `h` heads, `c` channels or width per head,
//! `e` embedding width, `m`, `n`, `k` the sizes of a matrix product.

mod aligned;
mod exec;
mod gemm;
mod math;
mod ops;
mod simd;
mod tape;
mod tensor;
mod workspace;

pub use exec::{Exec, ParamId};
pub use gemm::Precision;
pub use math::Activation;
pub use ops::{
    attention::{AttentionSpec, DistanceBias, Mask},
    convolution::{ImageShape, Levels, Pictures},
    embedding::{TokenBatch, TokenTables},
    linear::{Before, Bias, LinearParams, Onto, RowNorm},
    rotary::{Pairing, RotaryTable},
    tokens::ImagePlaces,
};
pub use simd::vectorize;
pub use tape::Tape;
pub use tensor::{Pool, Tensor};
pub use workspace::Workspace;
