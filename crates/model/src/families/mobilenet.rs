//! MobileNet v1 in Keras' layout: HWIO kernels, batch norms beside them.
//!
//! In:  tensor names `conv1`, `conv_dw_N`, `conv_pw_N` and their `_bn`. Out: a name map.
//! Parity: `testdata/parity/mobilenet`, `testdata/parity/towers/mobilenet_tiny`.

use conjoin_input::ImageContract;

use crate::weights::Source;

/// Tensors of the classifier, which an embedder does not use.
pub const IGNORED: [&str; 1] = ["conv_preds/"];

/// Our names to Keras', for a network of this many blocks.
#[must_use]
pub fn names(blocks: usize) -> Vec<(String, Source)> {
    let mut map = Vec::new();
    convolution(&mut map, "stem", "conv1", Source::Transposed("conv1/kernel".to_owned()));
    for i in 0..blocks {
        let (depthwise, pointwise) = (format!("conv_dw_{}", i + 1), format!("conv_pw_{}", i + 1));
        let taps = Source::Flattened(format!("{depthwise}/depthwise_kernel"));
        convolution(&mut map, &format!("blocks.{i}.depthwise"), &depthwise, taps);
        let kernel = Source::Transposed(format!("{pointwise}/kernel"));
        convolution(&mut map, &format!("blocks.{i}.pointwise"), &pointwise, kernel);
    }
    map
}

fn convolution(map: &mut Vec<(String, Source)>, ours: &str, theirs: &str, weight: Source) {
    map.push((format!("{ours}.weight"), weight));
    map.push((format!("{ours}.scale"), Source::NormScale(format!("{theirs}_bn"))));
    map.push((format!("{ours}.bias"), Source::NormShift(format!("{theirs}_bn"))));
}

/// How Keras' MobileNet wants its pictures: squashed to a square, scaled to -1 to 1.
#[must_use]
pub fn contract(size: usize) -> ImageContract {
    ImageContract::inception(size)
}
