//! The items of judgements: ids and words in memory, texts by number from the file.
//!
//! In:  the items' file. Out: an item's number by id, its id and text by number, items near a text.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    ops::ControlFlow,
    path::Path,
};

use super::{
    JudgedColumns,
    lexical::{Lexical, LexicalBuilder},
};
use crate::{
    Limits, Reason, Rejects, TextFileErrorKind, TextRowErrorKind,
    read::table::{Cells, Column, RowIndex, Table},
    text_key::text_hash,
};

/// The usable items of a file, numbered in its order.
#[derive(Debug)]
pub(super) struct Items {
    table: Table,
    id: Column,
    texts: Vec<Column>,
    max_bytes: usize,
    index: RowIndex,
    numbers: HashMap<String, u32>,
    /// Of each item's text; equal texts are one document.
    hashes: Vec<u64>,
    n_texts: usize,
    lexical: Lexical,
}

impl Items {
    pub(super) fn open(
        path: &Path,
        columns: &JudgedColumns,
        limits: &Limits,
        rejects: &mut Rejects,
    ) -> Result<Self, TextFileErrorKind> {
        if columns.item_text.is_empty() {
            let (key, found) = ("item_text", "empty".to_owned());
            let expected = "at least one column".to_owned();
            return Err(TextFileErrorKind::Setting { key, found, expected });
        }
        let mut table = Table::open(path, &columns.of_items(), limits)?;
        let mut own = table.take_rejects();
        let mut items = Self {
            id: table.column(&columns.item_id),
            texts: columns.item_text.iter().map(|name| table.column(name)).collect(),
            table,
            max_bytes: limits.field_bytes,
            index: RowIndex::default(),
            numbers: HashMap::new(),
            hashes: Vec::new(),
            n_texts: 0,
            lexical: Lexical::default(),
        };
        items.read_through(&mut own)?;
        rejects.append(own);
        Ok(items)
    }

    fn read_through(&mut self, own: &mut Rejects) -> Result<(), TextFileErrorKind> {
        let mut builder = LexicalBuilder::default();
        let Self { table, id, texts, max_bytes, index, numbers, hashes, .. } = self;
        table.scan(&mut |row| {
            let item = row.cells.and_then(|cells| item_of(&cells, id, texts, *max_bytes));
            let added = item.and_then(|(id, text)| {
                match numbers.entry(id) {
                    Entry::Vacant(free) => free.insert(hashes.len() as u32),
                    Entry::Occupied(first) => {
                        let first = table.place(index.line(*first.get() as usize));
                        return Err(Reason::DuplicateId { first });
                    }
                };
                builder.add(&text);
                hashes.push(text_hash(&text));
                index.push(row.start, row.line);
                Ok(())
            });
            if let Err(reason) = added {
                own.add(table.reject(row.line, reason));
            }
            ControlFlow::Continue(())
        })?;
        if hashes.is_empty() {
            return Err(own.nothing_usable());
        }
        index.shrink();
        self.n_texts = self.hashes.iter().collect::<HashSet<_>>().len();
        self.lexical = builder.build();
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// How many different texts there are.
    pub(super) fn n_texts(&self) -> usize {
        self.n_texts
    }

    pub(super) fn input(&self) -> &str {
        self.table.input()
    }

    pub(super) fn number(&self, id: &str) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    pub(super) fn hash(&self, item: u32) -> u64 {
        self.hashes[item as usize]
    }

    pub(super) fn lexical(&self) -> &Lexical {
        &self.lexical
    }

    /// Id and text of an item.
    pub(super) fn read(&self, item: u32) -> Result<(String, String), TextRowErrorKind> {
        let cells = self.table.cells(&self.index, item as usize)?;
        item_of(&cells, &self.id, &self.texts, self.max_bytes)
            .ok()
            .filter(|(_, text)| text_hash(text) == self.hash(item))
            .ok_or(TextRowErrorKind::Changed)
    }
}

/// Id and text of a row.
fn item_of(
    cells: &Cells,
    id: &Column,
    texts: &[Column],
    max_bytes: usize,
) -> Result<(String, String), Reason> {
    let id = cells.filled(id, max_bytes)?.into_owned();
    let mut parts = Vec::new();
    for column in texts {
        parts.extend(cells.texts(column, max_bytes)?.into_iter().filter(|text| !text.is_empty()));
    }
    if parts.is_empty() { Err(Reason::EmptyText) } else { Ok((id, parts.join(". "))) }
}
