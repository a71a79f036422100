//! What a model expects of a picture.
//!
//! In:  decoded [`Pixels`] of any size. Out: pixels of the model's size, and their normalised values.
//! Not here: decoding (`decode`), random changes for training (`augment`).
//! Parity: `testdata/parity/preprocess`, bit-exact with torchvision and transformers on Pillow.

use serde::{Deserialize, Serialize};

use crate::{ContractError, Frame, ImageError, ImageLimits, Interpolation, Pixels, decode, resize};

/// Largest side a contract may ask for: four times the largest of known models.
const MAX_SIZE: usize = 4096;

/// Mean and deviation of CLIP's training pictures (Radford et al. 2021), RGB.
const CLIP: ([f32; 3], [f32; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);

/// Mean and deviation of ImageNet, RGB, as everybody quotes them.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// How a picture of any size becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ResizeMode {
    /// The shorter side becomes `resized`, the longer one is cropped on both ends.
    ShortestCenterCrop {
        /// What happens to an odd number of surplus pixels.
        crop_rounding: CropRounding,
    },
    /// Both sides become `resized`; the aspect ratio is lost.
    Squash,
    /// The longer side becomes `resized`, the shorter one is padded on both ends.
    LongestPad {
        /// Colour of the padding, RGB.
        fill: [u8; 3],
    },
}

/// How many pixels are cut off at the left or top when an odd number is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CropRounding {
    /// Half of it, rounded to the even number: torchvision, open_clip, Jina.
    HalfEven,
    /// Half of it, rounded down: Hugging Face image processors.
    Down,
}

/// What a model expects of a picture; part of every checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageContract {
    /// Width and height in pixels.
    pub size: usize,
    /// Side to which a picture is resized, more than `size`, before the middle is kept. None: `size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resized: Option<usize>,
    /// How a picture of any size becomes that square.
    pub resize: ResizeMode,
    /// How values between pixels are found.
    pub interpolation: Interpolation,
    /// Subtracted from each channel, on the scale 0 to 1.
    pub mean: [f32; 3],
    /// What each channel is divided by then.
    pub std: [f32; 3],
}

impl ImageContract {
    /// CLIP and Jina CLIP: shortest side, centre crop, bicubic.
    #[must_use]
    pub fn clip(size: usize) -> Self {
        let resize = ResizeMode::ShortestCenterCrop { crop_rounding: CropRounding::HalfEven };
        let (mean, std) = CLIP;
        Self { size, resized: None, resize, interpolation: Interpolation::Bicubic, mean, std }
    }

    /// SigLIP and the Inception family: squashed, bicubic, values from -1 to 1.
    #[must_use]
    pub fn inception(size: usize) -> Self {
        let (mean, std) = ([0.5; 3], [0.5; 3]);
        let interpolation = Interpolation::Bicubic;
        Self { size, resized: None, resize: ResizeMode::Squash, interpolation, mean, std }
    }

    /// ImageNet classifiers of torchvision: shortest side, centre crop, bilinear.
    #[must_use]
    pub fn imagenet(size: usize) -> Self {
        let resize = ResizeMode::ShortestCenterCrop { crop_rounding: CropRounding::HalfEven };
        let (mean, std) = IMAGENET;
        Self { size, resized: None, resize, interpolation: Interpolation::Bilinear, mean, std }
    }

    /// Checks the values that the types do not. To be called on every contract read from a file.
    ///
    /// # Errors
    /// On the first value out of range.
    pub fn check(&self) -> Result<(), ContractError> {
        let fits = (1..=MAX_SIZE).contains(&self.size);
        ContractError::check(fits, "image.size", &self.size, "1 to 4096")?;
        let resized = self.resized();
        let covers = (self.size..=MAX_SIZE).contains(&resized);
        ContractError::check(covers, "image.resized", &resized, "`image.size` to 4096")?;
        for mean in self.mean {
            ContractError::check(mean.is_finite(), "image.mean", &mean, "finite numbers")?;
        }
        for std in self.std {
            let positive = std.is_normal() && std > 0.0;
            ContractError::check(positive, "image.std", &std, "finite numbers above 0")?;
        }
        Ok(())
    }

    /// The side to which a picture is resized before its middle is kept.
    #[must_use]
    pub fn resized(&self) -> usize {
        self.resized.unwrap_or(self.size)
    }

    /// Decodes and prepares a picture file.
    ///
    /// # Errors
    /// As [`decode()`].
    ///
    /// # Panics
    /// When `size` is zero or above `resized`.
    pub fn read(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Pixels, ImageError> {
        Ok(self.prepare(&decode(bytes, limits)?))
    }

    /// Resizes, and crops or pads, to `size` x `size`.
    ///
    /// # Panics
    /// When `size` is zero or above `resized`.
    #[must_use]
    pub fn prepare(&self, pixels: &Pixels) -> Pixels {
        let (width, height, to) = (pixels.width(), pixels.height(), self.resized());
        let ((w, h), rounding) = match self.resize {
            ResizeMode::Squash => ((to, to), CropRounding::HalfEven),
            ResizeMode::ShortestCenterCrop { crop_rounding } => {
                let short = width.min(height);
                ((to * width / short, to * height / short), crop_rounding)
            }
            ResizeMode::LongestPad { .. } => {
                let ratio = width.max(height) as f64 / to as f64;
                // At least one pixel stays of a very thin picture.
                let side = |n: usize| ((n as f64 / ratio).round_ties_even() as usize).clamp(1, to);
                ((side(width), side(height)), CropRounding::HalfEven)
            }
        };
        let middle = resize(pixels, (w, h), self.middle(w, h, rounding), self.interpolation);
        match self.resize {
            ResizeMode::LongestPad { fill } => middle.centred_on(self.size, fill),
            ResizeMode::Squash | ResizeMode::ShortestCenterCrop { .. } => middle,
        }
    }

    /// The part of a resized picture that is kept: at most `size` on each side.
    fn middle(&self, width: usize, height: usize, rounding: CropRounding) -> Frame {
        Frame {
            left: rounding.half(width.saturating_sub(self.size)),
            top: rounding.half(height.saturating_sub(self.size)),
            width: width.min(self.size),
            height: height.min(self.size),
        }
    }

    /// `(x / 255 - mean) / std` of every level of every channel.
    #[must_use]
    pub fn levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            std::array::from_fn(|level| (level as f32 / 255.0 - mean) / std)
        })
    }

    /// Writes `(x / 255 - mean) / std` of every value.
    ///
    /// # Shapes
    /// `out` is `[height, width, 3]`, as the pixels.
    ///
    /// # Panics
    /// When `out` has another length than the pixels.
    pub fn normalize(&self, pixels: &Pixels, out: &mut [f32]) {
        assert_eq!(out.len(), pixels.data().len(), "one number per byte");
        let levels = self.levels();
        let (bytes, _) = pixels.data().as_chunks::<3>();
        let (numbers, _) = out.as_chunks_mut::<3>();
        for (to, pixel) in numbers.iter_mut().zip(bytes) {
            *to = std::array::from_fn(|channel| levels[channel][usize::from(pixel[channel])]);
        }
    }
}

impl CropRounding {
    fn half(self, surplus: usize) -> usize {
        match self {
            Self::HalfEven if surplus % 4 == 3 => surplus / 2 + 1,
            Self::HalfEven | Self::Down => surplus / 2,
        }
    }
}

#[cfg(test)]
mod tests;
