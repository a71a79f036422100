//! Judgements by query, and the rows they make.
//!
//! In:  the judgements' file, the items. Out: [`RowAt`]s in the order of the file; each query with all that was
//!      judged for it.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
};

use super::{JudgedColumns, JudgedRule, items::Items};
use crate::{
    Aspects, Limits, Reason, Rejects, TextFileErrorKind,
    read::table::{Cells, Column, Table, number, shortened},
    text_key::{normalized, text_hash},
};

/// An item's grade for a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grade {
    pub(super) item: u32,
    pub(super) grade: f32,
}

/// A row: a judgement good enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowAt {
    query: u32,
    pub(super) item: u32,
    pub(super) grade: f32,
    pub(super) line: u64,
}

/// All judgements of a file.
#[derive(Debug)]
pub(super) struct Judgements {
    input: Arc<str>,
    queries: Vec<Asked>,
    rows: Vec<RowAt>,
}

/// A query with all that was judged for it, in the order of the file.
#[derive(Debug)]
struct Asked {
    text: String,
    judged: Vec<Grade>,
}

/// A row's query.
pub(super) struct Query<'a> {
    pub(super) text: &'a String,
    pub(super) judged: &'a [Grade],
}

/// The judgements of one query and item.
struct Merged {
    query: u32,
    item: u32,
    sum: f64,
    n: u32,
    line: u64,
}

impl Judgements {
    pub(super) fn open(
        path: &Path,
        columns: &JudgedColumns,
        (rule, limits): (&JudgedRule, &Limits),
        (items, rejects): (&Items, &mut Rejects),
    ) -> Result<Self, TextFileErrorKind> {
        let mut table = Table::open(path, &columns.of_judgements(), limits)?;
        let mut own = table.take_rejects();
        let mut reader = Reader::new(&table, columns, limits);
        table.scan(&mut |row| {
            let added = row.cells.and_then(|cells| reader.add(&cells, row.line, items));
            if let Err(reason) = added {
                own.add(table.reject(row.line, reason));
            }
            ControlFlow::Continue(())
        })?;
        let Reader { mut queries, merged, .. } = reader;
        let mut rows = Vec::new();
        for Merged { query, item, sum, n, line } in merged {
            let grade = (sum / f64::from(n)) as f32;
            queries[query as usize].judged.push(Grade { item, grade });
            if grade >= rule.positive_from {
                rows.push(RowAt { query, item, grade, line });
            }
        }
        let room = room(&queries, items, rule);
        rows.retain(|row| {
            let found = room[row.query as usize];
            if found < rule.n_negatives {
                let reason = Reason::TooFewNegatives { found, expected: rule.n_negatives };
                own.add(table.reject(row.line, reason));
            }
            found >= rule.n_negatives
        });
        if rows.is_empty() {
            return Err(own.nothing_usable());
        }
        rejects.append(own);
        Ok(Self { input: table.input().into(), queries, rows })
    }

    pub(super) fn input(&self) -> &str {
        &self.input
    }

    pub(super) fn rows(&self) -> &[RowAt] {
        &self.rows
    }

    pub(super) fn n_queries(&self) -> usize {
        self.queries.len()
    }

    pub(super) fn query(&self, row: &RowAt) -> Query<'_> {
        let asked = &self.queries[row.query as usize];
        Query { text: &asked.text, judged: &asked.judged }
    }

    pub(super) fn aspects(&self, items: &Items) -> Aspects {
        let query = |row: &RowAt| text_hash(self.query(row).text);
        Aspects {
            queries: self.rows.iter().map(query).collect(),
            documents: self.rows.iter().map(|row| items.hash(row.item)).collect(),
            groups: vec![],
        }
    }
}

/// How many different texts may be negatives, by query.
fn room(queries: &[Asked], items: &Items, rule: &JudgedRule) -> Vec<usize> {
    let room_of = |asked: &Asked| {
        let spared = asked.judged.iter().filter(|judged| judged.grade >= rule.negative_below);
        let spared: HashSet<u64> = spared.map(|judged| items.hash(judged.item)).collect();
        items.n_texts() - spared.len()
    };
    queries.iter().map(room_of).collect()
}

/// Takes in judgements row by row.
struct Reader {
    query: Column,
    item: Column,
    grade: Column,
    max_bytes: usize,
    queries: Vec<Asked>,
    numbers: HashMap<String, u32>,
    merged: Vec<Merged>,
    places: HashMap<(u32, u32), usize>,
}

impl Reader {
    fn new(table: &Table, columns: &JudgedColumns, limits: &Limits) -> Self {
        Self {
            query: table.column(&columns.query),
            item: table.column(&columns.item),
            grade: table.column(&columns.grade),
            max_bytes: limits.field_bytes,
            queries: vec![],
            numbers: HashMap::new(),
            merged: vec![],
            places: HashMap::new(),
        }
    }

    fn add(&mut self, cells: &Cells, line: u64, items: &Items) -> Result<(), Reason> {
        let text = cells.filled(&self.query, self.max_bytes)?;
        let id = cells.filled(&self.item, self.max_bytes)?;
        let grade = number(&self.grade, &cells.filled(&self.grade, self.max_bytes)?)?;
        let item = items.number(&id);
        let item = item.ok_or_else(|| Reason::UnknownItem { item: shortened(&id) })?;
        let query = self.query_number(&text);
        let next = self.merged.len();
        let place = *self.places.entry((query, item)).or_insert(next);
        if place == next {
            self.merged.push(Merged { query, item, sum: 0.0, n: 0, line });
        }
        self.merged[place].sum += f64::from(grade);
        self.merged[place].n += 1;
        Ok(())
    }

    fn query_number(&mut self, text: &str) -> u32 {
        let next = self.queries.len() as u32;
        let number = *self.numbers.entry(normalized(text)).or_insert(next);
        if number == next {
            self.queries.push(Asked { text: text.to_owned(), judged: vec![] });
        }
        number
    }
}
