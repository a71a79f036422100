//! Random changes of pictures for training.
//!
//! In:  decoded [`Pixels`], the model's [`ImageContract`], a seed. Out: pixels of the model's size.
//! Not here: anything used when a model is measured or served.
//! Source: random resized crop as in Szegedy et al. 2015 with the sampling rule of torchvision;
//!         colour changes are linear maps, joined into one and rounded once.

use conjoin_core::{Rng, Seed};
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::{ContractError, Frame, ImageContract, Pixels, resize};

/// Tries before the crop falls back to the largest centred one of an allowed shape.
const CROP_TRIES: usize = 10;

/// Weights of red, green and blue in the grey value (ITU-R BT.601).
const GREY: [f32; 3] = [0.299, 0.587, 0.114];

/// Random changes of pictures for training. What is left out does not happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// A random crop resized to the model's size, or none: then the contract's own resize.
    pub crop: Option<CropRange>,
    /// Probability of mirroring left and right, 0 to 1.
    pub flip: f32,
    /// Brightness is multiplied by 1 - this to 1 + this; 0 to 1.
    pub brightness: f32,
    /// Contrast around the mean grey is multiplied by 1 - this to 1 + this; 0 to 1.
    pub contrast: f32,
    /// Saturation is multiplied by 1 - this to 1 + this; 0 to 1.
    pub saturation: f32,
    /// Each channel on its own is multiplied by 1 - this to 1 + this; 0 to 1.
    pub colour_cast: f32,
}

/// The sizes and shapes of random crops.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CropRange {
    /// Smallest and largest share of the picture's area, above 0 to 1.
    pub scale: [f32; 2],
    /// Smallest and largest ratio of width to height, above 0; drawn on a logarithmic scale.
    pub ratio: [f32; 2],
}

impl Default for Augment {
    fn default() -> Self {
        Self::none()
    }
}

impl Augment {
    /// No change: the contract's own preparation.
    #[must_use]
    pub fn none() -> Self {
        Self {
            crop: None,
            flip: 0.0,
            brightness: 0.0,
            contrast: 0.0,
            saturation: 0.0,
            colour_cast: 0.0,
        }
    }

    /// Checks the values that the types do not.
    ///
    /// # Errors
    /// On the first value out of range.
    pub fn check(&self) -> Result<(), ContractError> {
        let unit = [
            ("augment.flip", self.flip),
            ("augment.brightness", self.brightness),
            ("augment.contrast", self.contrast),
            ("augment.saturation", self.saturation),
            ("augment.colour_cast", self.colour_cast),
        ];
        for (key, value) in unit {
            ContractError::check((0.0..=1.0).contains(&value), key, &value, "0 to 1")?;
        }
        self.crop.as_ref().map_or(Ok(()), CropRange::check)
    }

    /// Changes a picture at random and brings it to the contract's size. Equal seeds give equal
    /// pictures.
    ///
    /// # Panics
    /// When the contract's size is zero.
    #[must_use]
    pub fn apply(&self, pixels: &Pixels, contract: &ImageContract, seed: Seed) -> Pixels {
        let mut changed = match &self.crop {
            Some(range) => range.apply(pixels, contract, &mut seed.stream("crop").rng()),
            None => contract.prepare(pixels),
        };
        if seed.stream("flip").rng().random::<f32>() < self.flip {
            changed.flip_horizontally();
        }
        self.change_colours(&mut changed, &mut seed.stream("colour").rng());
        changed
    }

    fn change_colours(&self, pixels: &mut Pixels, rng: &mut Rng) {
        let strengths = [self.brightness, self.contrast, self.saturation, self.colour_cast];
        if strengths == [0.0; 4] {
            return;
        }
        let mut factor = |strength: f32| 1.0 + strength * rng.random_range(-1.0..=1.0);
        let [brightness, contrast] = [factor(self.brightness), factor(self.contrast)];
        let saturation = factor(self.saturation);
        let cast = [(); 3].map(|()| factor(self.colour_cast));
        let gain = brightness * contrast;
        let offset = (1.0 - contrast) * brightness * mean_grey(pixels);
        let (data, _) = pixels.data_mut().as_chunks_mut::<3>();
        for pixel in data {
            let lit = pixel.map(|byte| f32::from(byte) * gain + offset);
            let grey = grey_of(lit);
            *pixel = std::array::from_fn(|channel| {
                let colour = grey + saturation * (lit[channel] - grey);
                // The conversion cuts fractions off and saturates: 0 to 255.
                (colour * cast[channel] + 0.5) as u8
            });
        }
    }
}

impl CropRange {
    fn check(&self) -> Result<(), ContractError> {
        let ([small, large], [narrow, wide]) = (self.scale, self.ratio);
        let scale_fits = 0.0 < small && small <= large && large <= 1.0;
        let shown = format!("{:?}", self.scale);
        ContractError::check(
            scale_fits,
            "augment.crop.scale",
            &shown,
            "two rising numbers in 0 to 1",
        )?;
        let ratio_fits = 0.0 < narrow && narrow <= wide && wide.is_finite();
        let shown = format!("{:?}", self.ratio);
        ContractError::check(ratio_fits, "augment.crop.ratio", &shown, "two rising numbers above 0")
    }

    fn apply(&self, pixels: &Pixels, contract: &ImageContract, rng: &mut Rng) -> Pixels {
        let size = contract.size;
        let part = pixels.part(self.draw(pixels.width(), pixels.height(), rng));
        resize(&part, (size, size), Frame::whole(size, size), contract.interpolation)
    }

    fn draw(&self, width: usize, height: usize, rng: &mut Rng) -> Frame {
        let area = (width * height) as f64;
        let [small, large] = self.scale.map(f64::from);
        let [narrow, wide] = self.ratio.map(|ratio| f64::from(ratio).ln());
        for _ in 0..CROP_TRIES {
            let target = area * rng.random_range(small..=large);
            let ratio = rng.random_range(narrow..=wide).exp();
            let w = (target * ratio).sqrt().round() as usize;
            let h = (target / ratio).sqrt().round() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let left = rng.random_range(0..=width - w);
                let top = rng.random_range(0..=height - h);
                return Frame { left, top, width: w, height: h };
            }
        }
        self.centred(width, height)
    }

    /// The largest centred crop of an allowed shape.
    fn centred(&self, width: usize, height: usize) -> Frame {
        let [narrow, wide] = self.ratio.map(f64::from);
        let (w, h) = (width as f64, height as f64);
        let side = |length: f64, most: usize| (length.round() as usize).clamp(1, most);
        let (w, h) = match w / h {
            ratio if ratio < narrow => (width, side(w / narrow, height)),
            ratio if ratio > wide => (side(h * wide, width), height),
            _ => (width, height),
        };
        Frame { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
    }
}

fn grey_of(colour: [f32; 3]) -> f32 {
    colour[0] * GREY[0] + colour[1] * GREY[1] + colour[2] * GREY[2]
}

/// Exact for any picture size, since the sum is of whole numbers.
fn mean_grey(pixels: &Pixels) -> f32 {
    let (data, _) = pixels.data().as_chunks::<3>();
    let mut sums = [0_u64; 3];
    for pixel in data {
        for (sum, &byte) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(byte);
        }
    }
    grey_of(sums.map(|sum| sum as f32 / data.len() as f32))
}

#[cfg(test)]
mod tests;
