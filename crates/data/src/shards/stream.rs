//! Reads shards from front to back, a buffer ahead of what is drawn.
//!
//! In:  places of an epoch's order, one after the other. Out: the samples there.
//! Before a place is drawn, as many samples as the buffer has room for are read and not yet drawn: the rest of the
//! place's window and the beginning of the next one. So reading goes on evenly, sample by sample. Samples that
//! would take the buffer over its bytes are only noted, and read by position when they are drawn; which ones these
//! are changes no order.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use conjoin_core::Seed;

use super::{
    ShardSample, Shards,
    order::{Order, Windows},
    samples::{Found, Samples},
};
use crate::{Reason, ShardsError, positioned::PositionedFile, read::file_name};

/// The place in an epoch up to which was read and drawn.
#[derive(Debug)]
pub(super) struct Stream {
    seed: Seed,
    order: Order,
    windows: Windows,
    /// The place that is drawn next.
    next: u64,
    /// The place of the stream that is read next.
    next_read: u64,
    /// What was read and not drawn, by the place at which it is drawn.
    held: HashMap<u64, Held>,
    held_bytes: u64,
    /// The shards that are being read.
    open: BTreeMap<usize, Cursor>,
}

/// A sample that waits.
#[derive(Debug)]
enum Held {
    Read { sample: ShardSample, n_bytes: u64 },
    Noted { shard: usize, found: Found },
}

/// A shard and the number of its sample that comes next.
#[derive(Debug)]
struct Cursor {
    samples: Samples,
    next: u32,
}

impl Stream {
    pub(super) fn new(of: &Shards, seed: Seed) -> Self {
        Self {
            seed,
            order: Order::new(&of.shards, of.config.interleave, seed),
            windows: Windows::new(of.config.shuffle_buffer, of.len, seed),
            next: 0,
            next_read: 0,
            held: HashMap::new(),
            held_bytes: 0,
            open: BTreeMap::new(),
        }
    }

    pub(super) fn seed(&self) -> Seed {
        self.seed
    }

    /// The sample at a place.
    pub(super) fn draw(&mut self, of: &Shards, place: u64) -> Result<ShardSample, ShardsError> {
        assert!(place < of.len as u64, "there are {} samples, {place} is none", of.len);
        if place != self.next {
            self.go_to(place);
        }
        while self.next_read < self.windows.needed(place) {
            self.read_next(of)?;
        }
        self.next = place + 1;
        match self.held.remove(&place).expect("its window was read") {
            Held::Read { sample, n_bytes } => {
                self.held_bytes -= n_bytes;
                Ok(sample)
            }
            Held::Noted { shard, found } => {
                let open = || PositionedFile::open(&of.shards[shard].path);
                open()
                    .and_then(|file| sample(of, shard, found, &file))
                    .map_err(|e| fail(of, shard, e))
            }
        }
    }

    /// Goes on elsewhere: at the beginning of the window there.
    fn go_to(&mut self, place: u64) {
        self.held.clear();
        self.held_bytes = 0;
        self.open.clear();
        self.next = place;
        self.next_read = self.windows.start(place);
    }

    /// Reads the next sample of the stream, unless it was drawn before.
    fn read_next(&mut self, of: &Shards) -> Result<(), ShardsError> {
        let place = self.next_read;
        self.next_read += 1;
        let at = self.windows.drawn_at(place);
        if at < self.next {
            return Ok(());
        }
        let (shard, number) = self.order.at(&of.shards, place);
        let held = self.read(of, shard, number).map_err(|error| fail(of, shard, error))?;
        if let Held::Read { n_bytes, .. } = held {
            self.held_bytes += n_bytes;
        }
        self.held.insert(at, held);
        if number + 1 == of.shards[shard].n_samples {
            self.open.remove(&shard);
        }
        Ok(())
    }

    fn read(&mut self, of: &Shards, shard: usize, number: u32) -> io::Result<Held> {
        let cursor = match self.open.entry(shard) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(Cursor::open(of, shard)?)
            }
        };
        let Some(found) = cursor.sample(of, number)? else {
            let n = of.shards[shard].n_samples;
            let id = format!("{}:#{number}", file_name(&of.shards[shard].path));
            let sample = ShardSample { id, content: Err(Reason::MissingSample { n }) };
            return Ok(Held::Read { sample, n_bytes: 0 });
        };
        let n_bytes = found.n_bytes();
        if self.held_bytes + n_bytes > of.config.shuffle_bytes {
            return Ok(Held::Noted { shard, found });
        }
        let sample = sample(of, shard, found, cursor.samples.file())?;
        let n_bytes = if sample.content.is_ok() { n_bytes } else { 0 };
        Ok(Held::Read { sample, n_bytes })
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, u64) {
        (self.held.len(), self.held_bytes)
    }
}

impl Cursor {
    fn open(of: &Shards, shard: usize) -> io::Result<Self> {
        let file = PositionedFile::open(&of.shards[shard].path)?;
        Ok(Self { samples: Samples::new(file), next: 0 })
    }

    /// The sample of a number that was not passed yet; `None` where the shard ends before it.
    fn sample(&mut self, of: &Shards, number: u32) -> io::Result<Option<Found>> {
        while self.next < number {
            self.next += 1;
            if self.samples.next(&of.caption, &of.limits)?.is_none() {
                break;
            }
        }
        self.next = number + 1;
        self.samples.next(&of.caption, &of.limits)
    }
}

fn sample(
    of: &Shards,
    shard: usize,
    found: Found,
    file: &PositionedFile,
) -> io::Result<ShardSample> {
    let id = format!("{}:{}", file_name(&of.shards[shard].path), found.key);
    Ok(ShardSample { id, content: found.read(file, &of.caption)? })
}

fn fail(of: &Shards, shard: usize, error: io::Error) -> ShardsError {
    ShardsError { path: of.shards[shard].path.clone(), kind: error.into() }
}
