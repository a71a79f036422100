//! The numbers of a parameter: owned, or lent by somebody (a file in memory) until they are written.
//!
//! In:  a vector, or anything that lends a slice. Out: a slice to read, and one to write, which copies
//! lent numbers first. So a model opens without a copy of its weights, and training still can change
//! them.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// Somebody who lends numbers.
pub type Lender = Arc<dyn AsRef<[f32]> + Send + Sync>;

/// The numbers of a parameter.
#[derive(Clone)]
pub struct Values(Inner);

#[derive(Clone)]
enum Inner {
    Owned(Vec<f32>),
    Lent(Lender),
}

impl Values {
    /// Numbers that somebody else keeps.
    #[must_use]
    pub fn lent(lender: Lender) -> Self {
        Self(Inner::Lent(lender))
    }

    /// Whether they are still somebody else's.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        matches!(self.0, Inner::Lent(_))
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
        }
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        if let Inner::Lent(lender) = &self.0 {
            self.0 = Inner::Owned((**lender).as_ref().to_vec());
        }
        match &mut self.0 {
            Inner::Owned(values) => values,
            Inner::Lent(_) => unreachable!("lent numbers were copied above"),
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
}
