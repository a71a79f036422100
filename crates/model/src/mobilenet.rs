//! MobileNet v1: declared from a spec, one forward for training and inference.
//!
//! In:  pixels. Out: unit vectors `[b, e]`.
//! Batch norms are folded to a scale and a shift per channel at load; training sees them frozen to
//! their statistics, so a row never depends on the rest of its batch.
//! Source: Howard et al. 2017. Parity: `testdata/parity/mobilenet`, `testdata/parity/towers`.

use conjoin_engine::{Activation, Exec, LinearParams, Pictures, Precision, Tensor};

use crate::{TowerPrecision, layout::Layout, spec::MobileNetSpec, tower::Observe};

/// Blocks whose products are always of `f32`: the fewest that leave every one of 1,863 photos at a cosine of
/// 0.9995 or more.
const EXACT_BLOCKS: usize = 4;

/// A MobileNet whose parameters are declared.
#[derive(Debug)]
pub(crate) struct MobileNet {
    spec: MobileNetSpec,
    stem: LinearParams,
    blocks: Vec<Block>,
    projection: Option<LinearParams>,
}

#[derive(Debug)]
struct Block {
    depthwise: LinearParams,
    pointwise: LinearParams,
    stride: usize,
}

impl MobileNet {
    pub(crate) fn declare(spec: &MobileNetSpec, layout: &mut Layout) -> Self {
        let stem = layout.convolution("stem", [spec.stem_filters, 27], spec.stem_filters);
        let mut c = spec.stem_filters;
        let mut blocks = Vec::with_capacity(spec.blocks.len());
        for (i, block) in spec.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{i}.{part}");
            blocks.push(Block {
                depthwise: layout.convolution(&name("depthwise"), [9, c], c),
                pointwise: layout.convolution(
                    &name("pointwise"),
                    [block.filters, c],
                    block.filters,
                ),
                stride: block.stride,
            });
            c = block.filters;
        }
        let projection = spec
            .projection
            .map(|e| layout.linear("projection", (e, c), (c as f32).powf(-0.5), false));
        Self { spec: spec.clone(), stem, blocks, projection }
    }

    /// The precision of its products where one is asked for. Rounding in the first blocks goes through all
    /// others, and no residual carries exact numbers past them, so they stay exact. Products this small
    /// are not faster in bytes than in bf16, and bytes are too coarse for them.
    pub(crate) fn usual_precision(&self, prefix: &str, precision: Precision) -> TowerPrecision {
        match precision {
            Precision::F32 => precision.into(),
            Precision::Bf16 | Precision::Int8 => {
                let blocks = (0..EXACT_BLOCKS.min(self.blocks.len()))
                    .map(|block| format!("{prefix}blocks.{block}.pointwise.weight"));
                let exact = blocks.chain([format!("{prefix}stem.weight")]);
                let exceptions = exact.map(|weight| (weight, Precision::F32)).collect();
                TowerPrecision { precision: Precision::Bf16, exceptions }
            }
        }
    }

    pub(crate) fn spec(&self) -> &MobileNetSpec {
        &self.spec
    }

    /// # Shapes
    /// `b` pictures of `[h, w, 3]` to `[b, e]`.
    pub(crate) fn embed_pictures(
        &self,
        exec: &Exec<'_>,
        pictures: &Pictures<'_>,
        observe: Observe<'_>,
    ) -> Tensor {
        let stride = self.spec.stem_stride;
        let windows = exec.windows(pictures, 3, stride); // [b·h·w, 27]
        let mut x = exec.linear(&windows, self.stem, Activation::Relu6); // [b·h·w, c]
        let mut shape = pictures.shape().strided(stride);
        observe.tell("hidden.0", &x);
        for (i, block) in self.blocks.iter().enumerate() {
            x = exec.depthwise(&x, shape, block.stride, block.depthwise, Activation::Relu6);
            shape = shape.strided(block.stride);
            x = exec.linear(&x, block.pointwise, Activation::Relu6); // [b·h·w, c']
            observe.tell(&format!("hidden.{}", i + 1), &x);
        }
        let per_image = shape.height * shape.width;
        let images = (0..shape.batch).map(|i| i * per_image..(i + 1) * per_image).collect();
        let mut pooled = exec.mean_rows(&x, &images); // [b, c']
        observe.tell("pooled", &pooled);
        if let Some(projection) = self.projection {
            pooled = exec.linear(&pooled, projection, Activation::Identity); // [b, e]
        }
        exec.normalize(&pooled)
    }
}
