//! The numbers of a parameter: owned, or lent by somebody (a file in memory) until they are written.
//!
//! In:  a vector, or anything that lends a slice, of `f32` or of 16 bits. Out: a slice to read, and one to
//! write, which copies lent numbers first. So a model opens without a copy of its weights, and training
//! still can change them. Numbers of 16 bits become `f32` when somebody reads the slice, and stay so;
//! [`Values::widened`] and [`Values::read`] widen for their caller alone.

use std::{
    borrow::Cow,
    fmt,
    ops::{Deref, DerefMut, Range},
    sync::{Arc, OnceLock},
};

use half::{
    bf16, f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};

/// Somebody who lends numbers.
pub type Lender = Arc<dyn AsRef<[f32]> + Send + Sync>;

/// Somebody who lends numbers of 16 bits.
pub type HalfLender = Arc<dyn AsRef<[u16]> + Send + Sync>;

/// How 16 bits are a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// IEEE 754's: 5 bits of exponent.
    F16,
    /// The upper half of an `f32`.
    Bf16,
}

impl Half {
    /// Writes numbers as `f32`.
    fn widen(self, words: &[u16], out: &mut [f32]) {
        match self {
            Self::F16 => words.reinterpret_cast::<f16>().convert_to_f32_slice(out),
            Self::Bf16 => words.reinterpret_cast::<bf16>().convert_to_f32_slice(out),
        }
    }

    fn widened(self, words: &[u16]) -> Vec<f32> {
        let mut wide = vec![0.0; words.len()];
        self.widen(words, &mut wide);
        wide
    }

    /// Whether a word is a finite number.
    #[must_use]
    pub fn is_finite(self, word: u16) -> bool {
        // All bits of the exponent are set of what is not.
        let exponent = match self {
            Self::F16 => 0x7c00,
            Self::Bf16 => 0x7f80,
        };
        word & exponent != exponent
    }
}

/// The numbers of a parameter.
#[derive(Clone)]
pub struct Values(Inner);

#[derive(Clone)]
enum Inner {
    Owned(Vec<f32>),
    Lent(Lender),
    Halves(Arc<Halves>),
}

struct Halves {
    lender: HalfLender,
    half: Half,
    wide: OnceLock<Vec<f32>>,
}

impl Halves {
    fn words(&self) -> &[u16] {
        (*self.lender).as_ref()
    }
}

impl Values {
    /// Numbers that somebody else keeps.
    #[must_use]
    pub fn lent(lender: Lender) -> Self {
        Self(Inner::Lent(lender))
    }

    /// Numbers of 16 bits that somebody else keeps.
    #[must_use]
    pub fn lent_halves(lender: HalfLender, half: Half) -> Self {
        Self(Inner::Halves(Arc::new(Halves { lender, half, wide: OnceLock::new() })))
    }

    /// Whether they are still somebody else's.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        match self.0 {
            Inner::Owned(_) => false,
            Inner::Lent(_) | Inner::Halves(_) => true,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Owned(values) => values.len(),
            Inner::Lent(lender) => (**lender).as_ref().len(),
            Inner::Halves(halves) => halves.words().len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of 16 bits, and how they are read, unless somebody has needed them as `f32`.
    #[must_use]
    pub fn halves(&self) -> Option<(&[u16], Half)> {
        match &self.0 {
            Inner::Halves(halves) if halves.wide.get().is_none() => {
                Some((halves.words(), halves.half))
            }
            Inner::Owned(_) | Inner::Lent(_) | Inner::Halves(_) => None,
        }
    }

    /// Some numbers; those of 16 bits widened for the caller alone.
    ///
    /// # Panics
    /// When there are too few.
    #[must_use]
    pub fn widened(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        match self.halves() {
            Some((words, half)) => Cow::Owned(half.widened(&words[range])),
            None => Cow::Borrowed(&self[range]),
        }
    }

    /// Writes the numbers from `start` on into `out`.
    ///
    /// # Panics
    /// When there are too few.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self.halves() {
            Some((words, half)) => half.widen(&words[range], out),
            None => out.copy_from_slice(&self[range]),
        }
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self(Inner::Owned(values))
    }
}

impl FromIterator<f32> for Values {
    fn from_iter<T: IntoIterator<Item = f32>>(iter: T) -> Self {
        Vec::from_iter(iter).into()
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Inner::Owned(values) => values,
            Inner::Lent(lender) => (**lender).as_ref(),
            Inner::Halves(halves) => {
                halves.wide.get_or_init(|| halves.half.widened(halves.words()))
            }
        }
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        if self.is_lent() {
            self.0 = Inner::Owned(self.widened(0..self.len()).into_owned());
        }
        match &mut self.0 {
            Inner::Owned(values) => values,
            Inner::Lent(_) | Inner::Halves(_) => unreachable!("lent numbers were copied above"),
        }
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<const N: usize> PartialEq<[f32; N]> for Values {
    fn eq(&self, other: &[f32; N]) -> bool {
        **self == *other
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_numbers_are_copied_when_written() {
        let lender: Lender = Arc::new(vec![1.0, 2.0]);
        let mut values = Values::lent(lender.clone());
        assert!(values.is_lent() && values == [1.0, 2.0]);
        values[1] = 3.0;
        assert!(!values.is_lent() && values == [1.0, 3.0]);
        assert_eq!((*lender).as_ref(), [1.0, 2.0]);
    }

    #[test]
    fn halves_are_widened_once_and_only_for_whom_a_slice_is_needed() {
        let words = [1.0, 2.0, 3.5].map(|x| f16::from_f32(x).to_bits());
        let values = Values::lent_halves(Arc::new(words.to_vec()), Half::F16);
        let mut row = [0.0; 2];
        values.read(1, &mut row);
        assert_eq!((values.len(), row), (3, [2.0, 3.5]));
        assert_eq!(*values.widened(1..3), [2.0, 3.5]);
        assert!(values.halves().is_some(), "nothing was kept");
        let mut copy = values.clone();
        assert!(values == [1.0, 2.0, 3.5] && values.is_lent());
        assert!(values.halves().is_none() && copy.halves().is_none(), "clones share what was kept");
        copy[0] = 9.0;
        assert!(!copy.is_lent() && copy == [9.0, 2.0, 3.5] && values == [1.0, 2.0, 3.5]);
    }

    #[test]
    fn every_half_is_the_number_it_means() {
        let words: Vec<u16> = (0..=u16::MAX).collect();
        let numbers: [fn(u16) -> f32; 2] =
            [|word| f16::from_bits(word).to_f32(), |word| f32::from_bits(u32::from(word) << 16)];
        for (half, number) in [Half::F16, Half::Bf16].into_iter().zip(numbers) {
            let mut wide = vec![0.0; words.len()];
            half.widen(&words, &mut wide);
            for (word, x) in words.iter().zip(wide) {
                assert_eq!(half.is_finite(*word), x.is_finite(), "{half:?} {word:x}");
                let expected = number(*word);
                assert!(x.to_bits() == expected.to_bits() || x.is_nan() && expected.is_nan());
            }
        }
    }
}
