//! Safetensors files, mapped into memory and read tensor by tensor.
//!
//! In:  a file, the shards of a folder, or embedded bytes. Out: tensors as `f32`, whatever they are
//! stored as; those stored as `F32`, `F16` or `BF16` are lent from the map, not copied.
//! Headers are parsed by the `safetensors` crate, which checks every offset against the file. This is
//! the crate's one module with `unsafe`, for the memory map.
#![expect(unsafe_code, reason = "memory maps are unsafe by nature; see the SAFETY note")]

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use conjoin_core::{Half, Values, hash_bytes};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use crate::{ModelErrorKind, checkpoint::read_json};

/// The one file of most folders.
const SINGLE: &str = "model.safetensors";
/// What tells in which file a tensor of a large model is.
const INDEX: &str = "model.safetensors.index.json";
/// Weights that are code when read.
const PICKLES: [&str; 3] =
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin"];
/// Headers of thousands of tensors have hundreds of kilobytes.
const MAX_HEADER_BYTES: usize = 8 << 20;
/// No model has more shards.
const MAX_SHARDS: usize = 1000;

/// The tensors of one or more safetensors files.
#[derive(Debug, Clone)]
pub struct Weights {
    files: Vec<Arc<Bytes>>,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug, Clone)]
struct Stored {
    file: Arc<Bytes>,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes in the file.
    range: Range<usize>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Embedded(Cow<'static, [u8]>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// Numbers in a map.
struct Lent {
    file: Arc<Bytes>,
    range: Range<usize>,
}

impl AsRef<[f32]> for Lent {
    fn as_ref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.file.get()[self.range.clone()])
    }
}

impl AsRef<[u16]> for Lent {
    fn as_ref(&self) -> &[u16] {
        bytemuck::cast_slice(&self.file.get()[self.range.clone()])
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Maps a file.
    ///
    /// # Errors
    /// When it cannot be read or its header is not valid.
    pub fn open(path: &Path) -> Result<Self, ModelErrorKind> {
        Self::of_files(&[path.to_path_buf()])
    }

    /// Maps the weights of a model's folder: `model.safetensors`, or the shards its index names.
    ///
    /// # Errors
    /// When there are none, or only pickled ones; and as [`Weights::open`].
    pub fn open_folder(folder: &Path) -> Result<Self, ModelErrorKind> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if !single.exists() && index.exists() {
            return Self::of_files(&shards(folder, &read_json(&index)?)?);
        }
        let pickle = PICKLES.iter().map(|name| folder.join(name)).find(|path| path.exists());
        match pickle {
            Some(pickle) if !single.exists() => Err(ModelErrorKind::Pickle(pickle)),
            Some(_) | None => Self::open(&single),
        }
    }

    /// Uses bytes that are part of the program or already in memory.
    ///
    /// # Errors
    /// When the header is not valid.
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self, ModelErrorKind> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new() };
        weights.add(Bytes::Embedded(bytes.into()), "embedded weights")?;
        Ok(weights)
    }

    fn of_files(paths: &[PathBuf]) -> Result<Self, ModelErrorKind> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            let file = fs_err::File::open(path)?;
            // SAFETY: the map is read-only and private to this value. Another process that truncates
            // the file while we read it could end this one with a bus error; it can never make us
            // write. A change of the numbers behind our back changes vectors, not memory safety:
            // every bit pattern is an f32.
            let mapped = unsafe { Mmap::map(file.file()) }?;
            weights.add(Bytes::Mapped(mapped), &path.display().to_string())?;
        }
        Ok(weights)
    }

    fn add(&mut self, bytes: Bytes, name: &str) -> Result<(), ModelErrorKind> {
        let file = Arc::new(bytes);
        let damaged = |source| ModelErrorKind::Safetensors { file: name.to_owned(), source };
        check_ends(file.get()).map_err(damaged)?;
        // Checks that the tensors fill the file, each with the size its shape says.
        let (header, metadata) = SafeTensors::read_metadata(file.get()).map_err(damaged)?;
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            // The header's length is told by eight bytes before it.
            let (start, end) = info.data_offsets;
            let range = start + header + 8..end + header + 8;
            let (dtype, shape) = (info.dtype, info.shape.clone());
            self.insert(todays_name(name), Stored { file: file.clone(), dtype, shape, range })?;
        }
        self.files.push(file);
        Ok(())
    }

    fn insert(&mut self, name: String, stored: Stored) -> Result<(), ModelErrorKind> {
        if self.tensors.contains_key(&name) {
            return Err(ModelErrorKind::DoubleTensor(name));
        }
        self.tensors.insert(name, stored);
        Ok(())
    }

    /// Takes over all tensors of other weights, each behind `prefix`.
    ///
    /// # Errors
    /// When a name is there already.
    pub(crate) fn join(&mut self, other: Self, prefix: &str) -> Result<(), ModelErrorKind> {
        for (name, stored) in other.tensors {
            self.insert(format!("{prefix}{name}"), stored)?;
        }
        self.files.extend(other.files);
        Ok(())
    }

    /// SHA-256 of all files.
    #[must_use]
    pub fn hash(&self) -> String {
        let hashes: Vec<String> = self.files.par_iter().map(|f| hash_bytes(f.get())).collect();
        match hashes.as_slice() {
            [one] => one.clone(),
            many => hash_bytes(many.concat().as_bytes()),
        }
    }

    /// Begins [`Weights::hash`] on a thread of its own, beside the loading of the same files: nearly
    /// every use of a model asks for its fingerprint. The result waits for it.
    pub(crate) fn hash_beside(&self) -> Hashing {
        let weights = self.clone();
        Hashing(Some(std::thread::spawn(move || weights.hash())))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's shape.
    ///
    /// # Errors
    /// When it is missing.
    pub fn shape(&self, name: &str) -> Result<&[usize], ModelErrorKind> {
        Ok(&self.stored(name)?.shape)
    }

    /// A tensor's shape and values.
    ///
    /// # Errors
    /// When it is missing, of an unreadable number type, or has a value that is not finite.
    pub fn tensor(&self, name: &str) -> Result<(Vec<usize>, Values), ModelErrorKind> {
        let stored = self.stored(name)?;
        let values = stored.values(name)?;
        if !are_finite(&values) {
            return Err(ModelErrorKind::NotFinite(name.to_owned()));
        }
        Ok((stored.shape.clone(), values))
    }

    /// The value of a tensor with one number.
    ///
    /// # Errors
    /// As [`Weights::tensor`], and when it has more numbers.
    pub fn scalar(&self, name: &str) -> Result<f32, ModelErrorKind> {
        let (found, values) = self.tensor(name)?;
        match *values {
            [value] => Ok(value),
            _ => {
                let (name, expected) = (name.to_owned(), vec![1]);
                Err(ModelErrorKind::Shape { name, found, expected })
            }
        }
    }

    /// A vector of whole numbers, none of them negative.
    ///
    /// # Errors
    /// When it is missing or holds something else.
    pub fn indices(&self, name: &str) -> Result<Vec<usize>, ModelErrorKind> {
        let stored = self.stored(name)?;
        let data = &stored.file.get()[stored.range.clone()];
        let wrong = || {
            let (name, found) = (name.to_owned(), format!("{:?}", stored.dtype));
            ModelErrorKind::Indices { name, found }
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the crate's list of types is open")]
        let numbers: Vec<i64> = match stored.dtype {
            Dtype::I64 => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            Dtype::I32 => {
                data.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()
            }
            _ => return Err(wrong()),
        };
        numbers.into_iter().map(|n| usize::try_from(n).map_err(|_| wrong())).collect()
    }

    fn stored(&self, name: &str) -> Result<&Stored, ModelErrorKind> {
        self.tensors.get(name).ok_or_else(|| ModelErrorKind::MissingTensor(name.to_owned()))
    }
}

impl Stored {
    fn values(&self, name: &str) -> Result<Values, ModelErrorKind> {
        let data = &self.file.get()[self.range.clone()];
        #[expect(clippy::wildcard_enum_match_arm, reason = "the crate's list of types is open")]
        Ok(match self.dtype {
            Dtype::F32 if lendable::<f32>(data) => Values::lent(self.lent()),
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => self.halves(Half::F16),
            Dtype::BF16 => self.halves(Half::Bf16),
            Dtype::F64 => {
                data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()
            }
            Dtype::I8 => data.iter().map(|b| f32::from(b.cast_signed())).collect(),
            other => {
                let (name, found) = (name.to_owned(), format!("{other:?}"));
                return Err(ModelErrorKind::NumberType { name, found });
            }
        })
    }
}

impl Stored {
    fn lent(&self) -> Arc<Lent> {
        Arc::new(Lent { file: self.file.clone(), range: self.range.clone() })
    }

    /// Numbers of 16 bits, where they lie if this machine can read them there.
    fn halves(&self, half: Half) -> Values {
        let data = &self.file.get()[self.range.clone()];
        if lendable::<u16>(data) {
            return Values::lent_halves(self.lent(), half);
        }
        let words = data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
        Values::lent_halves(Arc::new(words.collect::<Vec<_>>()), half)
    }
}

/// Whether all are numbers; those of 16 bits are not widened for it.
fn are_finite(values: &Values) -> bool {
    const PART: usize = 1 << 16;
    match values.halves() {
        Some((words, half)) => {
            words.par_chunks(PART).all(|part| part.iter().all(|word| half.is_finite(*word)))
        }
        None => values.par_chunks(PART).all(|part| part.iter().all(|v| v.is_finite())),
    }
}

/// The oldest files name a norm's weight and bias as their paper does.
fn todays_name(name: String) -> String {
    let renamed = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];
    let today = |(old, new)| name.strip_suffix(old).map(|start| format!("{start}{new}"));
    renamed.into_iter().find_map(today).unwrap_or(name)
}

/// A hash that is being computed. It ends before this does, so that no map outlives its model.
pub(crate) struct Hashing(Option<std::thread::JoinHandle<String>>);

impl Hashing {
    /// Waits for the hash.
    pub(crate) fn wait(mut self) -> String {
        let hashing = self.0.take().expect("only waiting and dropping take it");
        hashing.join().expect("hashing bytes does not panic")
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        if let Some(hashing) = self.0.take() {
            // Whether it ended well matters to nobody any more.
            let _ = hashing.join();
        }
    }
}

/// Whether the bytes are numbers of this machine where they lie.
fn lendable<T: bytemuck::Pod>(data: &[u8]) -> bool {
    cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, T>(data).is_ok()
}

/// Where a tensor ends, as a header tells it.
#[derive(Deserialize)]
struct Told {
    /// Absent in `__metadata__`.
    data_offsets: Option<(usize, usize)>,
}

/// Refuses headers whose numbers are larger than the file. The library below adds them up without a
/// check.
fn check_ends(file: &[u8]) -> Result<(), SafeTensorError> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(SafeTensorError::HeaderTooSmall);
    };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER_BYTES {
        return Err(SafeTensorError::HeaderTooLarge);
    }
    let header = rest.get(..length).ok_or(SafeTensorError::InvalidHeaderLength)?;
    let told: BTreeMap<String, Told> =
        serde_json::from_slice(header).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    let beyond = |told: &Told| told.data_offsets.is_some_and(|(_, end)| end > file.len());
    match told.into_iter().find(|(_, told)| beyond(told)) {
        Some((name, _)) => Err(SafeTensorError::InvalidOffset(name)),
        None => Ok(()),
    }
}

/// The files that an index names, each once; they lie in the folder itself.
fn shards(folder: &Path, index: &Index) -> Result<Vec<PathBuf>, ModelErrorKind> {
    let mut names: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let plain = |name: &&str| Path::new(name).file_name().is_some_and(|file| file == *name);
    match names.iter().find(|name| !plain(name)) {
        Some(name) => Err(ModelErrorKind::Shard((*name).to_owned())),
        None if names.len() > MAX_SHARDS => {
            Err(ModelErrorKind::Shard(format!("{} files", names.len())))
        }
        None => Ok(names.iter().map(|name| folder.join(name)).collect()),
    }
}
