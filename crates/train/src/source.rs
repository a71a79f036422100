//! What a task learns from: rows, read in any order or as a stream, prepared by several threads at once.
//!
//! In:  rows of a source. Out: a [`TaskBatch`]: the inputs of both sides, what is known of them, and
//!      what could not be read.
//! Not here: which rows make up a batch (`sampler`, `draws`), reading files (`conjoin-data`).

use conjoin_core::Seed;

use crate::losses::{Aspect, FalseNegatives, LabelKind, Labels, TeacherThreshold, TeacherVectors};

/// Pairs, or queries with documents and hard negatives, of one data set.
pub trait Source: Sync + Sized {
    /// A prepared text.
    type Text: Send;
    /// A prepared image.
    type Image: Send;
    /// Rows on their way into a batch: what had to be read in order.
    type Drawn: Send;
    /// Why nothing could be read at all.
    type Error: std::error::Error + Send + 'static;

    /// Number of rows.
    fn len(&self) -> usize;

    /// Whether there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Identifies the data and their preparation; a run resumes only on equal ones.
    fn fingerprint(&self) -> &str;

    /// The labels every batch of it has.
    fn labels(&self) -> LabelKind {
        LabelKind::None
    }

    /// Hard negatives every query of it has, `m`.
    fn n_negatives(&self) -> usize {
        0
    }

    /// Whether every batch of it has a teacher's vectors.
    fn has_teacher(&self) -> bool {
        false
    }

    /// Ids of all rows by aspect (text, image, group), `[len]` each: rows with an equal id are kept
    /// out of each other's batch where that can be avoided. None by default.
    fn aspects(&self) -> Vec<&[u64]> {
        Vec::new()
    }

    /// Whether the source shuffles its rows itself. Then the sampler asks for the places of an epoch's
    /// order one after the other, and which row stands where follows from [`Rows::order`] alone.
    fn is_streamed(&self) -> bool {
        false
    }

    /// Takes rows out of the data: called step after step, by one thread at a time. Any rows may be
    /// asked for, only slower where they do not follow those of the call before.
    ///
    /// # Errors
    /// When nothing can be read.
    fn draw(&self, rows: Rows) -> Result<Self::Drawn, Self::Error>;

    /// Prepares what was drawn, on any thread; `seed` is the step's own, for augmentation.
    ///
    /// # Errors
    /// When nothing can be read. A single bad row is a [`Reject`], never an error.
    fn load(&self, drawn: Self::Drawn, seed: Seed) -> Result<BatchOf<Self>, Self::Error>;
}

/// The rows that a batch takes of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Their numbers; of a source that is streamed, their places in the epoch's order.
    pub numbers: Vec<usize>,
    /// The seed of the epoch's order.
    pub order: Seed,
}

/// The inputs of one side of a batch, all of one modality.
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs<T, I> {
    /// For the text tower.
    Texts(Vec<T>),
    /// For the image tower.
    Images(Vec<I>),
}

impl<T, I> Inputs<T, I> {
    /// Number of inputs.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Images(images) => images.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Splits off what comes from `at` on.
    fn split_off(&mut self, at: usize) -> Self {
        match self {
            Self::Texts(texts) => Self::Texts(texts.split_off(at)),
            Self::Images(images) => Self::Images(images.split_off(at)),
        }
    }

    /// Puts inputs of the same modality behind these; `None` when it is another one.
    fn append(&mut self, more: Self) -> Option<()> {
        match (self, more) {
            (Self::Texts(all), Self::Texts(mut more)) => all.append(&mut more),
            (Self::Images(all), Self::Images(mut more)) => all.append(&mut more),
            (Self::Texts(_), Self::Images(_)) | (Self::Images(_), Self::Texts(_)) => return None,
        }
        Some(())
    }
}

/// Rows read for a step of a task.
#[derive(Debug, Clone)]
pub struct TaskBatch<T, I> {
    /// The rows' names, for messages, `[b]`.
    pub items: Vec<String>,
    /// One side, `[b]`.
    pub queries: Inputs<T, I>,
    /// The other side, `[b·(1+m)]`: each query's own, then `m` hard negatives of each query.
    pub documents: Inputs<T, I>,
    /// What queries and documents show, by aspect. Ids are compared between all sources of a task.
    pub aspects: Vec<Ids>,
    /// What is known of the pairs besides that they match.
    pub labels: OwnedLabels,
    /// What a teacher finds of queries and documents.
    pub teacher: Option<TeacherVectors>,
    /// The rows that could not be read.
    pub rejects: Vec<Reject>,
}

/// The batch that a source gives.
pub type BatchOf<S> = TaskBatch<<S as Source>::Text, <S as Source>::Image>;

/// The ids of an [`Aspect`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Of the queries, `[b]`, or empty.
    pub queries: Vec<u64>,
    /// Of the documents, `[b·(1+m)]`, or empty.
    pub documents: Vec<u64>,
}

/// [`Labels`] that own their numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum OwnedLabels {
    /// Nothing.
    #[default]
    None,
    /// `[b]`
    Grades(Vec<f32>),
    /// `[b, 1+m]`
    TeacherScores(Vec<f32>),
}

/// A row that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The row's name.
    pub item: String,
    /// Why.
    pub reason: String,
}

impl OwnedLabels {
    pub(crate) fn lent(&self) -> Labels<'_> {
        match self {
            Self::None => Labels::None,
            Self::Grades(grades) => Labels::Grades(grades),
            Self::TeacherScores(scores) => Labels::TeacherScores(scores),
        }
    }

    fn append(&mut self, more: Self) -> Option<()> {
        match (self, more) {
            (Self::None, Self::None) => {}
            (Self::Grades(all), Self::Grades(mut more))
            | (Self::TeacherScores(all), Self::TeacherScores(mut more)) => all.append(&mut more),
            _ => return None,
        }
        Some(())
    }

    /// How many numbers there should be for `b` queries of `1+m` documents, and how many there are.
    fn counts(&self, b: usize, n_documents: usize) -> (usize, usize) {
        match self {
            Self::None => (0, 0),
            Self::Grades(grades) => (b, grades.len()),
            Self::TeacherScores(scores) => (n_documents, scores.len()),
        }
    }
}

impl<T, I> TaskBatch<T, I> {
    /// Number of queries, `b`.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Says what does not fit together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (b, n) = (self.len(), self.documents.len());
        let (expected, found) = self.labels.counts(b, n);
        let ids = self.aspects.iter().all(|ids| {
            let of = |ids: &[u64], n| ids.is_empty() || ids.len() == n;
            of(&ids.queries, b) && of(&ids.documents, n)
        });
        let fits = b > 0 && self.queries.len() == b && n >= b && n.is_multiple_of(b);
        let taught = self.teacher.as_ref().is_none_or(|vectors| vectors.fit(b, n));
        if fits && ids && taught && expected == found {
            return Ok(());
        }
        let queries = self.queries.len();
        Err(format!(
            "{b} items, {queries} queries, {n} documents and {found} labels, or its ids or its teacher's \
             vectors are of others"
        ))
    }

    /// Which pairs are no negatives. With a threshold also those that a teacher scores above it.
    pub(crate) fn false_negatives(&self, teacher: Option<TeacherThreshold>) -> FalseNegatives {
        let aspects: Vec<Aspect<'_>> = self
            .aspects
            .iter()
            .map(|ids| Aspect { queries: &ids.queries, documents: &ids.documents })
            .collect();
        let same = FalseNegatives::by_aspects(&aspects);
        match (teacher, &self.teacher, &self.labels) {
            (Some(threshold), Some(vectors), _) => same.with_teacher(vectors.clone(), threshold),
            (Some(threshold), None, OwnedLabels::TeacherScores(scores)) => {
                same.with_teacher_scores(scores, self.len(), threshold)
            }
            _ => same,
        }
    }

    /// One batch of several: own documents first, then all hard negatives. `None` when they differ in
    /// modality, number of hard negatives, aspects, kind of labels or width of a teacher's vectors.
    pub(crate) fn join(mut parts: Vec<Self>) -> Option<Self> {
        let teacher = Self::join_teachers(&mut parts)?;
        let mut parts = parts.into_iter();
        let mut all = parts.next()?;
        let mut negatives = all.documents.split_off(all.items.len());
        let mut ids_of_negatives: Vec<Vec<u64>> = all.split_ids();
        let m =
            |batch: &Self, negatives: &Inputs<T, I>| negatives.len().checked_div(batch.items.len());
        let n_negatives = m(&all, &negatives);
        for mut part in parts {
            let more = part.documents.split_off(part.items.len());
            if part.aspects.len() != all.aspects.len() || m(&part, &more) != n_negatives {
                return None;
            }
            for (ids, more) in ids_of_negatives.iter_mut().zip(part.split_ids()) {
                ids.extend(more);
            }
            for (ids, more) in all.aspects.iter_mut().zip(part.aspects) {
                ids.queries.extend(more.queries);
                ids.documents.extend(more.documents);
            }
            negatives.append(more)?;
            all.queries.append(part.queries)?;
            all.documents.append(part.documents)?;
            all.labels.append(part.labels)?;
            all.items.extend(part.items);
            all.rejects.extend(part.rejects);
        }
        all.documents.append(negatives)?;
        for (ids, negatives) in all.aspects.iter_mut().zip(ids_of_negatives) {
            ids.documents.extend(negatives);
        }
        all.teacher = teacher;
        Some(all)
    }

    /// Takes the teachers' vectors of all batches as those of one; `None` when only some have them.
    fn join_teachers(parts: &mut [Self]) -> Option<Option<TeacherVectors>> {
        let taught: Vec<_> = parts.iter_mut().filter_map(|part| part.teacher.take()).collect();
        match taught.len() {
            0 => Some(None),
            n if n == parts.len() => TeacherVectors::join(taught).map(Some),
            _ => None,
        }
    }

    /// Splits the negatives' ids off, aspect by aspect.
    fn split_ids(&mut self) -> Vec<Vec<u64>> {
        let b = self.items.len();
        let split = |ids: &mut Ids| ids.documents.split_off(b.min(ids.documents.len()));
        self.aspects.iter_mut().map(split).collect()
    }
}
