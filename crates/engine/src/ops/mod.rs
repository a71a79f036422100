//! The operations, one file each: forward, backward and what must be kept between them.

pub(crate) mod add;
pub(crate) mod attention;
pub(crate) mod checkpoint;
pub(crate) mod convolution;
pub(crate) mod depthwise;
pub(crate) mod embedding;
pub(crate) mod gate;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod normalize;
pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod rotary;
pub(crate) mod tokens;
