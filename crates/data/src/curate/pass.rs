//! The one pass over the raw catalogues.
//!
//! In:  events of a reader. Out: shards and rejects as they come; items and manifest at the end.
//!
//! Records wait in a batch of bounded size; its pictures are decoded in parallel, then the rows are settled one
//! by one in their order, so nothing depends on threads.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use conjoin_core::{ArtifactWriter, Manifest, Progress, Stop};
use fs_err::File;
use rayon::prelude::*;
use serde::Serialize;

use super::{
    CurateConfig, CurateSummary, PEEK_RECORDS, add_new,
    manifest::{input_hashes, manifest},
};
use crate::{
    Limits,
    dataset::{ITEMS_FILE, REJECTS_FILE},
    error::{CurateError, ImageFault},
    filter::{
        duplicate_id::SeenIds,
        duplicate_row::SeenRows,
        empty_text,
        image::{self, Picture},
    },
    item::{Item, Split},
    read::{self, Event},
    record::{ImageSource, Place, RawRecord, Reason, Reject},
    shard::ShardWriter,
    split::{Ballot, assign},
    text_key::normalized,
};

/// Bytes of records and pictures that wait at most, one record more at worst.
const BATCH_BYTES: u64 = 64 << 20;
const STAGE: &str = "curate";

/// A row of the batch.
enum Waiting {
    /// A record whose picture was located.
    Record(RawRecord, Option<Result<ImageSource, ImageFault>>),
    /// A row the reader rejected; it waits so that all lines keep the order of the source.
    Reject(Reject),
}

/// A row whose picture was decoded.
enum Ready {
    Record(RawRecord, Result<Option<Picture>, ImageFault>),
    Reject(Reject),
}

impl Waiting {
    fn verify(self, limits: &Limits) -> Ready {
        match self {
            Self::Reject(reject) => Ready::Reject(reject),
            Self::Record(record, image) => {
                let image = image.map(|found| found.and_then(|at| image::verify(at, limits)));
                Ready::Record(record, image.transpose())
            }
        }
    }
}

/// An item whose split is not settled.
struct Draft {
    item: Item,
    place: Place,
    given: Option<Split>,
}

/// The state of a curation.
pub(super) struct Pass<'a> {
    config: &'a CurateConfig,
    artifact: &'a ArtifactWriter,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    shards: ShardWriter<'a>,
    rejects: BufWriter<File>,
    batch: Vec<Waiting>,
    batch_bytes: u64,
    drafts: Vec<Draft>,
    ids: SeenIds,
    rows: SeenRows,
    n_rows: u64,
    n_rejected: u64,
    warned: BTreeSet<usize>,
    reasons: BTreeMap<String, u64>,
    inputs: BTreeMap<String, String>,
    found: Vec<String>,
}

impl<'a> Pass<'a> {
    pub(super) fn start(
        config: &'a CurateConfig,
        artifact: &'a ArtifactWriter,
        progress: &'a dyn Progress,
        stop: &'a Stop,
    ) -> Result<Self, CurateError> {
        let rejects = File::create(artifact.file(REJECTS_FILE)).map_err(CurateError::Write)?;
        Ok(Self {
            config,
            artifact,
            progress,
            stop,
            shards: ShardWriter::new(artifact, config.shard_bytes),
            rejects: BufWriter::new(rejects),
            batch: Vec::new(),
            batch_bytes: 0,
            drafts: Vec::new(),
            ids: SeenIds::default(),
            rows: SeenRows::default(),
            n_rows: 0,
            n_rejected: 0,
            warned: BTreeSet::new(),
            reasons: BTreeMap::new(),
            inputs: BTreeMap::new(),
            found: Vec::new(),
        })
    }

    /// Takes in one catalogue.
    pub(super) fn read(&mut self, input: &Path) -> Result<(), CurateError> {
        let io_fault = |e| CurateError::Read(crate::ReadError::io(input, e));
        self.stop.check()?;
        self.note_input(input).map_err(io_fault)?;
        let root = self.config.root_of(input).map_err(io_fault)?;
        let (limits, image_column) = (&self.config.limits, self.config.columns.image.as_deref());
        let mut intake = Intake { pass: self, input, root, checked: false, failed: None };
        let flow = read::read(input, limits, image_column, &mut |event| intake.take(event))?;
        if flow.is_continue() {
            intake.failed = intake.flush().err();
        }
        intake.failed.map_or(Ok(()), Err)
    }

    /// Remembers what the manifest says of an input.
    fn note_input(&mut self, input: &Path) -> io::Result<()> {
        for (name, hash) in input_hashes(input)? {
            let mut key = name.clone();
            let mut n = 1;
            while self.inputs.contains_key(&key) {
                n += 1;
                key = format!("{name} ({n})");
            }
            self.inputs.insert(key, hash);
        }
        Ok(())
    }

    /// Decodes the pictures of the batch and settles its rows.
    fn settle_batch(&mut self) -> Result<(), CurateError> {
        self.stop.check()?;
        let limits = &self.config.limits;
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let ready: Vec<Ready> = batch.into_par_iter().map(|row| row.verify(limits)).collect();
        for row in ready {
            let settled = match row {
                Ready::Record(record, picture) => self.settle(record, picture),
                Ready::Reject(Reject { place, id, reason }) => {
                    self.tell(&place, id.as_deref(), &[reason], false)
                }
            };
            settled.map_err(CurateError::Write)?;
        }
        let note = format!("{} rejected", self.n_rejected);
        self.progress.update(STAGE, self.n_rows, None, &note);
        self.stop.check()?;
        Ok(())
    }

    /// Makes an item of a row, or rejects it.
    fn settle(
        &mut self,
        record: RawRecord,
        picture: Result<Option<Picture>, ImageFault>,
    ) -> io::Result<()> {
        let columns = &self.config.columns;
        let mut faults = Vec::new();
        let texts = empty_text::texts(&record, &columns.text).unwrap_or_else(|reason| {
            faults.push(reason);
            vec![]
        });
        let picture = picture.unwrap_or_else(|fault| {
            faults.push(fault.into());
            None
        });
        if picture.is_none() && faults.iter().all(|f| !matches!(f, Reason::Image(_))) {
            let is_expected = columns.image.is_some() || columns.text.is_empty();
            faults.extend(is_expected.then_some(Reason::Image(ImageFault::None)));
        }
        let named = columns.id.as_ref().and_then(|id| record.value(id)).or(record.key.as_deref());
        let named = named.map(str::to_owned);
        let mut is_kept = !texts.is_empty() || picture.is_some();
        if is_kept
            && let Err(reason) = self.note_unique(&record, picture.as_ref(), named.as_deref())
        {
            faults.push(reason);
            is_kept = false;
        }
        let given = self.given_split(&record, is_kept, &mut faults);
        let id = match (is_kept, named) {
            (true, None) => Some(self.free_id(&record.place)),
            (_, named) => named,
        };
        self.tell(&record.place, id.as_deref(), &faults, is_kept)?;
        match id {
            Some(id) if is_kept => self.keep(id, record, texts, (picture, given)),
            _ => Ok(()),
        }
    }

    fn note_unique(
        &mut self,
        record: &RawRecord,
        picture: Option<&Picture>,
        id: Option<&str>,
    ) -> Result<(), Reason> {
        self.rows.note(record, picture.map(|p| p.sha256.as_str()))?;
        id.map_or(Ok(()), |id| self.ids.note(id, &record.place))
    }

    fn given_split(
        &self,
        record: &RawRecord,
        is_kept: bool,
        faults: &mut Vec<Reason>,
    ) -> Option<Split> {
        let of_shard = Split::from_shard_name(&record.place.input);
        let column = self.config.columns.split.as_ref();
        let Some(word) = column.and_then(|split| record.value(split)) else { return of_shard };
        let split = Split::from_word(word);
        if split.is_none() && is_kept {
            faults.push(Reason::UnknownSplit { word: word.to_owned() });
        }
        split.or(of_shard)
    }

    /// An unused id for a row without one: its row number, with the input's name where that is taken or
    /// where other rows have ids of their own.
    fn free_id(&mut self, place: &Place) -> String {
        let short = self.config.columns.id.is_none().then(|| place.row.to_string());
        let long = format!("{}:{}", place.input, place.row);
        let longest = (self.n_rows + 1..).map(|n| format!("{}:{}:{n}", place.input, place.row));
        let mut candidates = short.into_iter().chain([long]).chain(longest);
        candidates.find(|id| self.ids.note(id, place).is_ok()).expect("there is no last number")
    }

    /// Counts a row and writes down what is wrong with it.
    fn tell(
        &mut self,
        place: &Place,
        id: Option<&str>,
        faults: &[Reason],
        is_kept: bool,
    ) -> io::Result<()> {
        self.n_rows += 1;
        self.n_rejected += u64::from(!is_kept);
        if is_kept && !faults.is_empty() {
            self.warned.insert(self.drafts.len());
        }
        faults.iter().try_for_each(|reason| self.write_reject(place, id, reason, is_kept))
    }

    fn write_reject(
        &mut self,
        place: &Place,
        id: Option<&str>,
        reason: &Reason,
        kept: bool,
    ) -> io::Result<()> {
        *self.reasons.entry(reason.kind().to_owned()).or_default() += 1;
        let (input, row) = (&*place.input, place.row);
        let line =
            RejectLine { input, row, id, kind: reason.kind(), reason: reason.sentence(), kept };
        write_line(&mut self.rejects, &line)
    }

    fn keep(
        &mut self,
        id: String,
        record: RawRecord,
        texts: Vec<(String, String)>,
        (picture, given): (Option<Picture>, Option<Split>),
    ) -> io::Result<()> {
        let columns = &self.config.columns;
        let group = columns.group.as_ref().and_then(|group| record.value(group)).map(str::to_owned);
        let group = group
            .or_else(|| texts.first().map(|(_, text)| normalized(text)))
            .or_else(|| picture.as_ref().map(|p| p.sha256.clone()))
            .unwrap_or_default();
        let payload = self.payload(record.fields);
        let sample = Sample { id: &id, group: &group, texts: &texts, payload: &payload };
        let key = format!("{:08}", self.drafts.len());
        let image = self.shards.add(&key, picture.as_ref(), &serde_json::to_vec(&sample)?)?;
        let item = Item { id, group, split: Split::Train, texts, image, payload };
        self.drafts.push(Draft { item, place: record.place, given });
        Ok(())
    }

    /// The fields that are neither texts nor stored elsewhere.
    fn payload(&self, fields: Vec<(String, String)>) -> BTreeMap<String, String> {
        let columns = &self.config.columns;
        let mut payload: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in fields {
            let value = value.trim();
            if value.is_empty() || columns.is_consumed(&name) || columns.text.contains(&name) {
                continue;
            }
            let joined = payload.entry(name).or_default();
            if !joined.is_empty() {
                joined.push_str(", ");
            }
            joined.push_str(value);
        }
        payload
    }

    /// Splits the items, writes them and tells what was done.
    pub(super) fn finish(mut self) -> Result<(Manifest, CurateSummary), CurateError> {
        if self.drafts.is_empty() {
            let reasons = self.reasons.into_iter().collect();
            let (inputs, n_rows) = (self.config.inputs.clone(), self.n_rows);
            return Err(CurateError::NothingUsable { inputs, n_rows, reasons });
        }
        let n_straddling = self.split().map_err(CurateError::Write)?;
        self.write_items().map_err(CurateError::Write)?;
        self.rejects.flush().map_err(CurateError::Write)?;
        let items = || self.drafts.iter().map(|draft| &draft.item);
        let count = |of: &dyn Fn(&&Item) -> bool| items().filter(|item| of(item)).count() as u64;
        let groups: BTreeSet<&str> = items().map(|item| item.group.as_str()).collect();
        let mut summary = CurateSummary {
            n_rows: self.n_rows,
            n_items: self.drafts.len() as u64,
            n_train: count(&|item| item.split == Split::Train),
            n_val: count(&|item| item.split == Split::Val),
            n_images: count(&|item| item.image.is_some()),
            n_groups: groups.len() as u64,
            n_rejected: self.n_rejected,
            n_warned: self.warned.len() as u64,
            reasons: self.reasons.clone(),
            n_straddling,
            n_shards: 0,
            manifest_hash: String::new(),
        };
        summary.n_shards = self.shards.finish().map_err(CurateError::Write)?;
        let done = format!("{} items of {} rows", summary.n_items, summary.n_rows);
        self.progress.finish(STAGE, &done);
        Ok((manifest(self.config, self.inputs, &summary), summary))
    }

    fn split(&mut self) -> io::Result<u64> {
        let config = self.config;
        let ballots: Vec<Ballot<'_>> = self
            .drafts
            .iter()
            .map(|draft| Ballot { group: &draft.item.group, given: draft.given })
            .collect();
        let assignment = assign(&ballots, config.val_fraction, config.seed);
        for (draft, split) in self.drafts.iter_mut().zip(assignment.splits) {
            draft.item.split = split;
        }
        for &index in &assignment.straddling {
            let Draft { item, place, .. } = &self.drafts[index];
            let (place, id, group) = (place.clone(), item.id.clone(), item.group.clone());
            self.warned.insert(index);
            self.write_reject(&place, Some(&id), &Reason::Straddling { group }, true)?;
        }
        let n = assignment.straddling.len();
        if n > 0 {
            let text = format!(
                "{n} val items belong to groups that are also in train, as the source says"
            );
            self.progress.warn(&text);
        }
        Ok(n as u64)
    }

    fn write_items(&self) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(self.artifact.file(ITEMS_FILE))?);
        self.drafts.iter().try_for_each(|draft| write_line(&mut file, &draft.item))?;
        file.flush()
    }
}

/// What a shard's `KEY.json` holds. Positions and splits are in the items only.
#[derive(Serialize)]
struct Sample<'a> {
    id: &'a str,
    group: &'a str,
    texts: &'a [(String, String)],
    payload: &'a BTreeMap<String, String>,
}

/// A line of `rejects.jsonl`.
#[derive(Serialize)]
struct RejectLine<'a> {
    input: &'a str,
    row: u64,
    id: Option<&'a str>,
    kind: &'static str,
    reason: String,
    kept: bool,
}

fn write_line(file: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}

/// One input on its way into the pass.
struct Intake<'p, 'a> {
    pass: &'p mut Pass<'a>,
    input: &'p Path,
    root: PathBuf,
    checked: bool,
    failed: Option<CurateError>,
}

impl Intake<'_, '_> {
    fn take(&mut self, event: Event) -> ControlFlow<()> {
        let result = match event {
            Event::Columns { names, ignored } => self.declared(&names, &ignored),
            Event::Record(record) => self.wait(record),
            Event::Reject(reject) => self.push(Waiting::Reject(reject), 0),
        };
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn declared(&mut self, names: &[String], ignored: &[String]) -> Result<(), CurateError> {
        if !ignored.is_empty() {
            let text = format!("columns of a type that is not read: {}", ignored.join(", "));
            self.pass.progress.warn(&text);
        }
        self.check(names)
    }

    fn check(&mut self, names: &[String]) -> Result<(), CurateError> {
        self.checked = true;
        let input = || self.input.to_owned();
        let checked = self.pass.config.columns.check(names);
        checked.map_err(|source| CurateError::Columns { input: input(), source })
    }

    fn wait(&mut self, mut record: RawRecord) -> Result<(), CurateError> {
        let field = self.pass.config.columns.image.as_ref();
        let path = field.and_then(|field| record.value(field));
        let located = path.map(|path| image::locate(path, &self.root));
        let image = record.image.take().map(Ok).or(located);
        let texts: usize = record.fields.iter().map(|(name, text)| name.len() + text.len()).sum();
        let pixels: u64 = image.iter().flatten().map(image::size).sum();
        self.push(Waiting::Record(record, image), texts as u64 + pixels)
    }

    fn push(&mut self, row: Waiting, n_bytes: u64) -> Result<(), CurateError> {
        self.pass.batch.push(row);
        self.pass.batch_bytes += n_bytes;
        if self.pass.batch.len() >= PEEK_RECORDS || self.pass.batch_bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), CurateError> {
        if !self.checked {
            self.check_found()?;
        }
        self.pass.settle_batch()
    }

    /// Checks the columns of a format that declares none, by those of its first records.
    fn check_found(&mut self) -> Result<(), CurateError> {
        // Shards given one by one are one catalogue: columns seen in an earlier input count.
        let mut names = std::mem::take(&mut self.pass.found);
        let (mut n_records, mut attached) = (0, false);
        for row in &self.pass.batch {
            if let Waiting::Record(record, image) = row {
                n_records += 1;
                attached |= matches!(image, Some(Ok(_)));
                add_new(&mut names, record.fields.iter().map(|(name, _)| name));
            }
        }
        // A picture attached by the format stands for the image column.
        add_new(&mut names, self.pass.config.columns.image.iter().filter(|_| attached));
        self.pass.found = names.clone();
        if n_records == 0 { Ok(()) } else { self.check(&names) }
    }
}
