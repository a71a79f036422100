//! Image tokens: a class token before each image's patches, if there is one, and learned positions.
//!
//! `y[image] = [class; patches] + P`, with the rows of `P` at the places of the patches that are there.

use std::{ops::Range, sync::Arc};

use crate::{
    Exec, ParamId, Tensor, simd,
    tape::{Backward, BackwardPass, NodeId},
    tensor::Buffer,
};

/// The tokens of packed images: those of image `i` are `offsets[i]..offsets[i + 1]`.
#[derive(Debug, Clone)]
pub struct ImagePlaces {
    offsets: Arc<[usize]>,
    /// The row of the positions' table of each token.
    places: Arc<[usize]>,
    class_token: bool,
}

impl ImagePlaces {
    /// Of images of which some patches are there, in their order: `patches` of each.
    #[must_use]
    pub fn new<P: IntoIterator<Item = usize>>(
        images: impl IntoIterator<Item = P>,
        class_token: bool,
    ) -> Self {
        let before = usize::from(class_token);
        let (mut offsets, mut places) = (vec![0], Vec::new());
        for patches in images {
            places.extend(class_token.then_some(0));
            places.extend(patches.into_iter().map(|patch| patch + before));
            offsets.push(places.len());
        }
        Self { offsets: offsets.into(), places: places.into(), class_token }
    }

    /// Where the tokens of each image begin and end, `b + 1` numbers.
    #[must_use]
    pub fn offsets(&self) -> &Arc<[usize]> {
        &self.offsets
    }

    /// The row of the positions' table of each token.
    #[must_use]
    pub fn places(&self) -> &Arc<[usize]> {
        &self.places
    }

    /// Tokens before the patches of an image.
    fn before(&self) -> usize {
        usize::from(self.class_token)
    }

    /// The tokens of each image, and the rows of its patches among all patches.
    fn images(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let before = self.before();
        self.offsets.windows(2).enumerate().map(move |(image, tokens)| {
            let patches = tokens[0] - image * before..tokens[1] - (image + 1) * before;
            (tokens[0]..tokens[1], patches)
        })
    }

    fn n_patches(&self) -> usize {
        self.places.len() - self.before() * (self.offsets.len() - 1)
    }
}

impl Exec<'_> {
    /// Puts the class token before the patches of each image and adds positions.
    ///
    /// # Shapes
    /// `patches`: those of `b` images one behind the other, `class`: `[d]`, `positions`: a row per place,
    /// result: `[t, d]`, the tokens of `places`.
    ///
    /// # Panics
    /// When there are other patches than places, or a place is outside its table.
    #[must_use]
    pub fn image_tokens(
        &self,
        patches: &Tensor,
        places: &ImagePlaces,
        class: Option<ParamId>,
        positions: ParamId,
    ) -> Tensor {
        let (d, t) = (patches.cols(), places.places.len());
        assert_eq!(places.class_token, class.is_some(), "a class token, or none");
        assert_eq!(places.n_patches(), patches.rows(), "a place per patch");
        let (x, table) = (patches.values(), self.value(positions));
        let class_token = class.map(|class| self.value(class));
        let mut y = self.take(t * d);
        simd::for_row_blocks(
            y.as_mut(),
            d,
            #[inline(always)]
            |first, y| {
                let mut image = places.offsets.partition_point(|start| *start <= first).max(1) - 1;
                for (token, y) in (first..).zip(y.chunks_exact_mut(d)) {
                    while token >= places.offsets[image + 1] {
                        image += 1;
                    }
                    let source = match class_token {
                        Some(class) if token == places.offsets[image] => class,
                        Some(_) => &x[(token - image - 1) * d..][..d],
                        None => &x[token * d..][..d],
                    };
                    y.copy_from_slice(source);
                    simd::add_assign(y, &table[places.places[token] * d..][..d]);
                }
            },
        );
        let own: Vec<_> = class.into_iter().chain([positions]).collect();
        let backward = self.records(&[patches], &own).then(|| {
            let places = places.clone();
            let node = ImageTokens { patches: patches.node(), class, positions, places, d };
            Box::new(node) as Box<dyn Backward>
        });
        self.output((t, d), y, backward)
    }
}

struct ImageTokens {
    patches: Option<NodeId>,
    class: Option<ParamId>,
    positions: ParamId,
    places: ImagePlaces,
    d: usize,
}

impl Backward for ImageTokens {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let Self { places, d, .. } = *self;
        let dy = dy.as_ref();
        let rows = |range: Range<usize>| range.start * d..range.end * d;
        if let Some((_, gradient)) = self.class.and_then(|class| cx.trained(class)) {
            places.images().for_each(|(t, _)| simd::add_assign(gradient, &dy[rows(t)][..d]));
        }
        if let Some((_, gradient)) = cx.trained(self.positions) {
            for (dy, place) in dy.chunks_exact(d).zip(places.places.iter()) {
                simd::add_assign(&mut gradient[place * d..][..d], dy);
            }
        }
        if let Some(input) = self.patches {
            let mut dx = cx.pool().take(places.n_patches() * d);
            for (tokens, patches) in places.images() {
                let behind = tokens.start + places.before()..tokens.end;
                dx.as_mut()[rows(patches)].copy_from_slice(&dy[rows(behind)]);
            }
            cx.give(input, dx);
        }
    }
}
