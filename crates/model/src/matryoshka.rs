//! Vectors of which the first numbers are vectors too (Matryoshka representations).
//!
//! In:  the widths a model was trained for. Out: which widths its vectors may be cut to.
//! Not here: the cut itself, which is `Embeddings::cut`.
//! Source: Kusupati et al. 2022.

use serde::{Deserialize, Serialize};

use crate::ModelErrorKind;

/// Which widths vectors may be cut to, and which they have unless somebody asks for another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matryoshka {
    /// The widths the model was trained for; empty: the whole alone.
    pub widths: Vec<usize>,
    /// The width of its vectors. None: the whole.
    pub width: Option<usize>,
}

impl Matryoshka {
    /// Whether vectors are whole, and there is no other width.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Cuts to a width that the model's publisher chose.
    pub(crate) fn cut(&mut self, width: usize) {
        self.width = Some(width);
        if !self.widths.contains(&width) {
            self.widths.push(width);
        }
    }

    /// The width of the vectors of towers that give `whole` numbers.
    ///
    /// # Errors
    /// When it is a width that the model was not trained for.
    pub(crate) fn checked(&self, whole: usize) -> Result<usize, ModelErrorKind> {
        let Some(found) = self.width.filter(|width| *width != whole) else { return Ok(whole) };
        if found < whole && found > 0 && self.widths.contains(&found) {
            return Ok(found);
        }
        let mut widths: Vec<usize> = self.widths.iter().copied().filter(|w| *w < whole).collect();
        widths.push(whole);
        Err(ModelErrorKind::Dimensions { found, widths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_to_trained_widths_only() {
        let checked = |widths: &[usize], width| {
            Matryoshka { widths: widths.to_vec(), width }.checked(8).map_err(|e| e.to_string())
        };
        assert_eq!(checked(&[], None), Ok(8));
        assert_eq!(checked(&[], Some(8)), Ok(8));
        assert_eq!(checked(&[2, 4, 8], Some(4)), Ok(4));
        let error = "3 dimensions were asked for, the model's vectors can have [2, 4, 8]";
        assert_eq!(checked(&[2, 4, 8], Some(3)), Err(error.to_owned()));
        assert!(checked(&[16], Some(16)).is_err());
    }
}
