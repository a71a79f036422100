//! MobileNet v1: declared from a spec, one forward for training and inference.
//!
//! In:  pixels. Out: unit vectors `[b, e]`.
//! Batch norms are folded to a scale and a shift per channel at load; training sees them frozen to
//! their statistics, so a row never depends on the rest of its batch.
//! Source: Howard et al. 2017. Parity: `testdata/parity/mobilenet`, `testdata/parity/towers`.

use conjoin_engine::{Activation, Exec, LinearParams, Pictures, Precision, Tensor};

use crate::{TowerPrecision, layout::Layout, spec::MobileNetSpec, tower::Observe};

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

    /// The precision of its products where one is asked for: rounding in the first blocks goes through all
    /// others, and no residual carries the exact numbers past them.
    pub(crate) fn usual_precision(&self, prefix: &str, precision: Precision) -> TowerPrecision {
        let (blocks, finer): (&[usize], _) = match precision {
            Precision::F32 => (&[], Precision::F32),
            Precision::Bf16 => (&[0], Precision::F32),
            Precision::Int8 => (&[0, 1, 2, 3, 9, 11], Precision::Bf16),
        };
        let blocks = blocks.iter().filter(|block| **block < self.blocks.len());
        let weight = |block: &usize| format!("{prefix}blocks.{block}.pointwise.weight");
        let exceptions = blocks.map(|block| (weight(block), finer)).collect();
        TowerPrecision { precision, exceptions }
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
