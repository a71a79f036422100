//! The samples of one shard, one after the other: where their files are, without reading these.
//!
//! In:  an open shard. Out: [`Found`]; neighbouring files of one key are a sample. What cannot be read is a sample with
//!      a fault, and the last one of its shard.
//! Not here: shards in which nothing can be skipped, as compressed ones (`read::tar`).

use std::io;

use tar::{EntryType, Header};

use super::{ShardContent, captions::Caption};
use crate::{
    ImageFault, Limits, Reason,
    positioned::PositionedFile,
    read::{
        lines::is_damage,
        tar::{MAX_NAME_BYTES, gnu_name, is_image, pax_name, split_name},
    },
};

const BLOCK_BYTES: u64 = 512;

/// Bytes of a file.
#[derive(Debug, Clone, Copy)]
struct Extent {
    offset: u64,
    length: u64,
}

/// A sample, not read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: String,
    image: Option<Extent>,
    text: Option<Extent>,
    fault: Option<Reason>,
}

impl Found {
    fn new(key: String) -> Self {
        Self { key, image: None, text: None, fault: None }
    }

    /// Bytes that reading it takes.
    pub(super) fn n_bytes(&self) -> u64 {
        [self.image, self.text].iter().flatten().map(|extent| extent.length).sum()
    }

    /// Takes a file in if it is one of those that are used.
    fn add(&mut self, member: &Member, caption: &Caption, limits: &Limits) {
        let Some((_, extension)) = split_name(&member.name) else { return };
        let extension = extension.to_ascii_lowercase();
        let place = if is_image(&extension) {
            &mut self.image
        } else if caption.is_in(&extension) {
            &mut self.text
        } else {
            return;
        };
        let (found, limit) = (member.extent.length, limits.entry_bytes);
        if found > limit as u64 {
            let entry = member.name.clone();
            self.fault.get_or_insert(Reason::EntryTooLarge { entry, found, limit });
        }
        place.get_or_insert(member.extent);
    }

    /// Its files.
    ///
    /// # Errors
    /// Of the machine. What is wrong with the sample is the inner error.
    pub(super) fn read(
        self,
        file: &PositionedFile,
        caption: &Caption,
    ) -> io::Result<Result<ShardContent, Reason>> {
        if let Some(fault) = self.fault {
            return Ok(Err(fault));
        }
        let read = |extent: Option<Extent>, missing: Reason| match extent {
            None => Ok(Err(missing)),
            Some(Extent { offset, length }) => match file.read(offset, length) {
                Ok(bytes) => Ok(Ok(bytes)),
                Err(error) if is_damage(&error) => Ok(Err(Reason::Damaged(error))),
                Err(error) => Err(error),
            },
        };
        let image = read(self.image, ImageFault::None.into())?;
        let text = read(self.text, caption.blank())?;
        Ok(image.and_then(|image| Ok(ShardContent { image, text: text? })))
    }
}

/// Goes through a shard.
#[derive(Debug)]
pub(super) struct Samples {
    members: Members,
    /// The first file of the next sample.
    next: Option<Member>,
}

impl Samples {
    pub(super) fn new(file: PositionedFile) -> Self {
        Self { members: Members { file, at: 0 }, next: None }
    }

    pub(super) fn file(&self) -> &PositionedFile {
        &self.members.file
    }

    /// The next sample; `None` at the end.
    ///
    /// # Errors
    /// Of the machine only.
    pub(super) fn next(&mut self, caption: &Caption, limits: &Limits) -> io::Result<Option<Found>> {
        let mut sample: Option<Found> = None;
        loop {
            let member = match self.next.take() {
                Some(member) => Some(member),
                None => match self.members.next() {
                    Ok(member) => member,
                    Err(error) if is_damage(&error) => {
                        self.members.end();
                        let mut cut = sample.unwrap_or_else(|| Found::new("?".to_owned()));
                        // It may lack parts that the damage took.
                        cut.fault.get_or_insert(Reason::Damaged(error));
                        return Ok(Some(cut));
                    }
                    Err(error) => return Err(error),
                },
            };
            let Some(member) = member else { return Ok(sample) };
            let Some((key, _)) = split_name(&member.name) else { continue };
            match &mut sample {
                Some(sample) if sample.key == key => sample.add(&member, caption, limits),
                Some(_) => {
                    self.next = Some(member);
                    return Ok(sample);
                }
                None => {
                    let mut first = Found::new(key.to_owned());
                    first.add(&member, caption, limits);
                    sample = Some(first);
                }
            }
        }
    }
}

/// A file of the archive.
#[derive(Debug)]
struct Member {
    name: String,
    extent: Extent,
}

/// Goes through an archive header by header.
#[derive(Debug)]
struct Members {
    file: PositionedFile,
    at: u64,
}

impl Members {
    /// The next regular file.
    fn next(&mut self) -> io::Result<Option<Member>> {
        let mut long_name = None;
        while let Some((header, extent)) = self.header()? {
            let kind = header.entry_type();
            if kind == EntryType::GNULongName {
                long_name = Some(gnu_name(&self.short(extent)?));
            } else if kind == EntryType::XHeader {
                long_name = pax_name(&self.short(extent)?)?.or(long_name);
            } else if kind == EntryType::Regular || kind == EntryType::Continuous {
                let own = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
                return Ok(Some(Member { name: long_name.unwrap_or_else(own), extent }));
            } else if kind != EntryType::GNULongLink && kind != EntryType::XGlobalHeader {
                long_name = None;
            }
        }
        Ok(None)
    }

    /// The next header, and where its content is. Two empty blocks end an archive; one does, too.
    fn header(&mut self) -> io::Result<Option<(Header, Extent)>> {
        if self.at >= self.file.n_bytes() {
            return Ok(None);
        }
        let block = self.file.read(self.at, BLOCK_BYTES)?;
        if block.iter().all(|byte| *byte == 0) {
            self.end();
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block.iter().enumerate().map(|(i, byte)| checked_byte(i, *byte)).sum();
        if header.cksum()? != sum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a header's checksum is wrong"));
        }
        let (offset, length) = (self.at + BLOCK_BYTES, header.entry_size()?);
        // Where the archive ends inside an entry, reading that entry tells.
        let end = offset.checked_add(length).filter(|end| *end <= self.file.n_bytes());
        self.at = end.map_or(u64::MAX, |end| end.next_multiple_of(BLOCK_BYTES));
        Ok(Some((header, Extent { offset, length })))
    }

    /// The content of an entry that holds a name.
    fn short(&self, extent: Extent) -> io::Result<Vec<u8>> {
        if extent.length > MAX_NAME_BYTES {
            let text = format!("an entry's name has {} bytes", extent.length);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.file.read(extent.offset, extent.length)
    }

    /// Nothing more is read.
    fn end(&mut self) {
        self.at = u64::MAX;
    }
}

/// What a byte of a header adds to its checksum, whose own eight bytes count as spaces.
fn checked_byte(at: usize, byte: u8) -> u32 {
    u32::from(if (148..156).contains(&at) { b' ' } else { byte })
}
