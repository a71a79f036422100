//! A safetensors file, mapped into memory and read tensor by tensor.
//!
//! In:  a path or embedded bytes. Out: tensors as `f32`, whatever they are stored as.
//! The header is parsed by the `safetensors` crate, which checks every offset against the file. This
//! is the crate's one module with `unsafe`, for the memory map.
#![expect(unsafe_code, reason = "memory maps are unsafe by nature; see the SAFETY note")]

use std::{borrow::Cow, path::Path};

use conjoin_core::hash_bytes;
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::ModelErrorKind;

/// An open safetensors file.
#[derive(Debug)]
pub struct WeightFile {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Embedded(Cow<'static, [u8]>),
}

impl WeightFile {
    /// Maps a file.
    ///
    /// # Errors
    /// When it cannot be read or its header is not valid.
    pub fn open(path: &Path) -> Result<Self, ModelErrorKind> {
        let file = fs_err::File::open(path)?;
        // SAFETY: the map is read-only and private to this value. Another process that truncates the
        // file while we read it could end this one with a bus error; it can never make us write.
        let mapped = unsafe { Mmap::map(file.file()) }?;
        Self { bytes: Bytes::Mapped(mapped) }.checked()
    }

    /// Uses bytes that are part of the program or already in memory.
    ///
    /// # Errors
    /// When the header is not valid.
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self, ModelErrorKind> {
        Self { bytes: Bytes::Embedded(bytes.into()) }.checked()
    }

    fn checked(self) -> Result<Self, ModelErrorKind> {
        self.parsed()?;
        Ok(self)
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
        }
    }

    fn parsed(&self) -> Result<SafeTensors<'_>, ModelErrorKind> {
        Ok(SafeTensors::deserialize(self.bytes())?)
    }

    /// SHA-256 of the whole file.
    #[must_use]
    pub fn hash(&self) -> String {
        hash_bytes(self.bytes())
    }

    /// A reader that has parsed the header once.
    ///
    /// # Errors
    /// When the header is not valid.
    pub fn reader(&self) -> Result<WeightReader<'_>, ModelErrorKind> {
        Ok(WeightReader { tensors: self.parsed()? })
    }
}

/// The tensors of a [`WeightFile`].
#[derive(Debug)]
pub struct WeightReader<'a> {
    tensors: SafeTensors<'a>,
}

impl WeightReader<'_> {
    /// Names of all tensors, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.tensors.names().into_iter().map(ToOwned::to_owned).collect();
        names.sort();
        names
    }

    /// A tensor's shape and values.
    ///
    /// # Errors
    /// When it is missing, of an unreadable number type, or has a value that is not finite.
    pub fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), ModelErrorKind> {
        let view = self
            .tensors
            .tensor(name)
            .map_err(|_| ModelErrorKind::MissingTensor(name.to_owned()))?;
        let values = to_f32(name, &view)?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(ModelErrorKind::NotFinite(name.to_owned()));
        }
        Ok((view.shape().to_vec(), values))
    }
}

fn to_f32(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, ModelErrorKind> {
    let data = view.data();
    let half_words = || data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    #[expect(clippy::wildcard_enum_match_arm, reason = "the crate's list of types is open")]
    Ok(match view.dtype() {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => half_words().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        Dtype::BF16 => half_words().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        other => {
            let (name, found) = (name.to_owned(), format!("{other:?}"));
            return Err(ModelErrorKind::NumberType { name, found });
        }
    })
}
