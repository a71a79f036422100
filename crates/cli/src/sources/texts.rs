//! Rows of texts: pairs of a file, and judgements with their items.

use conjoin_core::{Seed, Task, hash_bytes};
use conjoin_data::{Aspects, Judged, PairFile, text_hash};
use conjoin_train::{Ids, LabelKind, OwnedLabels};
use rayon::prelude::*;

use super::{
    batch::{Gathered, Loaded, Read, Reader, told},
    teacher::TeacherError,
};

/// Rows of texts.
pub(super) enum TextRows<'a> {
    Pairs(&'a PairFile, LabelKind),
    Judged(&'a Judged, usize),
}

/// A row of texts.
struct TextRow {
    query: String,
    document: String,
    negatives: Vec<String>,
    grade: f32,
    scores: Vec<f32>,
}

impl TextRows<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Pairs(file, _) => file.len(),
            Self::Judged(judged, _) => judged.len(),
        }
    }

    pub(super) fn labels(&self) -> LabelKind {
        match self {
            Self::Pairs(_, labels) => *labels,
            Self::Judged(..) => LabelKind::Grades,
        }
    }

    pub(super) fn n_negatives(&self) -> usize {
        match self {
            Self::Pairs(file, _) => file.n_negatives(),
            Self::Judged(_, n_negatives) => *n_negatives,
        }
    }

    pub(super) fn aspects(&self) -> &Aspects {
        match self {
            Self::Pairs(file, _) => file.aspects(),
            Self::Judged(judged, _) => judged.aspects(),
        }
    }

    pub(super) fn fingerprint(&self) -> &str {
        match self {
            Self::Pairs(file, _) => file.fingerprint(),
            Self::Judged(judged, _) => judged.fingerprint(),
        }
    }

    fn name(&self, row: usize) -> String {
        match self {
            Self::Pairs(file, _) => file.id(row),
            Self::Judged(..) => format!("judgement {row}"),
        }
    }

    fn read(&self, row: usize, seed: Seed) -> Result<TextRow, String> {
        match self {
            Self::Pairs(file, _) => {
                let row = file.read(row).map_err(|e| told(&e))?;
                Ok(TextRow {
                    query: row.query,
                    document: row.document,
                    negatives: row.negatives,
                    grade: row.grade.unwrap_or_default(),
                    scores: row.scores,
                })
            }
            Self::Judged(judged, _) => {
                let row = judged.read(row, seed).map_err(|e| told(&e))?;
                Ok(TextRow {
                    query: row.query,
                    document: row.document,
                    negatives: row.negatives,
                    grade: row.grade,
                    scores: Vec::new(),
                })
            }
        }
    }
}

/// Pairs of texts, or queries with documents and hard negatives.
pub(crate) struct TextSource<'a> {
    rows: TextRows<'a>,
    pub(super) reader: Reader<'a>,
    fingerprint: String,
}

/// A row of texts as tokens, with what it is compared by.
struct TextInputs {
    inputs: (Read, Read, Vec<Read>),
    negatives: Vec<u64>,
    grade: f32,
    scores: Vec<f32>,
}

impl<'a> TextSource<'a> {
    pub(super) fn new(rows: TextRows<'a>, reader: Reader<'a>) -> Self {
        let rules = serde_json::json!([rows.fingerprint(), reader.rules()]);
        let fingerprint = hash_bytes(rules.to_string().as_bytes());
        Self { rows, reader, fingerprint }
    }

    fn read(&self, row: usize, seed: Seed) -> Result<TextInputs, String> {
        let TextRow { query, document, negatives, grade, scores } = self.rows.read(row, seed)?;
        let reader = &self.reader;
        let negative = |(i, text): (usize, &String)| {
            reader.text(text, &Task::Passage, seed.stream("negative").at(i as u64))
        };
        let inputs = (
            reader.text(&query, &Task::Query, seed.stream("tokens"))?,
            reader.text(&document, &Task::Passage, seed.stream("document"))?,
            negatives.iter().enumerate().map(negative).collect::<Result<_, _>>()?,
        );
        let negatives = negatives.iter().map(|text| text_hash(text)).collect();
        Ok(TextInputs { inputs, negatives, grade, scores })
    }

    pub(super) fn rows(&self) -> &TextRows<'a> {
        &self.rows
    }

    /// Of the rows and of how they are prepared.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn load(&self, rows: &[usize], seed: Seed) -> Result<Loaded, TeacherError> {
        let read: Vec<_> =
            rows.par_iter().map(|&row| self.read(row, seed.at(row as u64))).collect();
        let known = self.rows.aspects();
        let mut loaded = Gathered::default();
        let (mut queries, mut documents, mut groups) =
            (Ids::default(), Ids::default(), Ids::default());
        let (mut negatives, mut grades, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for (&row, read) in rows.iter().zip(read) {
            let name = self.rows.name(row);
            let read = match read {
                Ok(read) => read,
                Err(reason) => {
                    loaded.reject(name, reason);
                    continue;
                }
            };
            loaded.add(name, read.inputs);
            queries.queries.push(known.queries[row]);
            documents.queries.push(known.documents[row]);
            groups.queries.extend(known.groups.get(row));
            negatives.extend(read.negatives);
            grades.push(read.grade);
            scores.extend(read.scores);
        }
        // Whatever is worded as the own document fits the query, whoever's negative it is.
        documents.documents = [documents.queries.as_slice(), &negatives].concat();
        let mut aspects = vec![queries, documents];
        aspects.extend((!groups.queries.is_empty()).then_some(groups));
        let labels = match self.rows.labels() {
            LabelKind::None => OwnedLabels::None,
            LabelKind::Grades => OwnedLabels::Grades(grades),
            LabelKind::TeacherScores => OwnedLabels::TeacherScores(scores),
        };
        loaded.batch(aspects, labels, self.reader.teacher)
    }
}
