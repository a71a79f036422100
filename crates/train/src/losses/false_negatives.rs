//! Which pairs of a batch must not count as negatives.
//!
//! In:  ids of what queries and documents show, by aspect (text, image, group); a teacher's vectors or
//!      scores.
//! Out: for two of the batch, whether they are left out.
//! Not here: arranging batches so that few of them occur (`sampler`), the teacher's rule (`teacher`).

use std::{collections::HashMap, ops::Range};

use super::teacher::{Taught, TeacherThreshold, TeacherVectors};

/// Ids of what the things of a batch show, in one respect.
///
/// # Shapes
/// - `queries`: `[b]`; what query `i`, or its own document, shows
/// - `documents`: `[b·(1+m)]`, or empty: own documents show what their queries do, and hard
///   negatives are compared with nothing
#[derive(Debug, Clone, Copy)]
pub struct Aspect<'a> {
    /// The ids on the queries' side. Equal ids: what fits one query fits the other.
    pub queries: &'a [u64],
    /// The ids of the documents. Equal to a query's: the document fits that query.
    pub documents: &'a [u64],
}

/// The pairs of a batch that are no negatives although they do not belong together.
///
/// Query `i` and a document that is not its own are left out when their ids are equal in any aspect:
/// the same caption fits both images, or a hard negative is the own document once more; or when a
/// teacher finds that they fit.
#[derive(Debug, Clone, Default)]
pub struct FalseNegatives {
    aspects: Vec<Ids>,
    /// Hard negatives that their own query leaves out, `[b, m]`.
    own: Vec<bool>,
    taught: Option<Taught>,
    n_queries: usize,
    /// Rows with anything to leave out besides what is taught, per [`Between`], `[b]` each.
    marked: [Vec<bool>; 3],
}

#[derive(Debug, Clone)]
struct Ids {
    queries: Vec<u64>,
    /// Of own documents, then, where known, of hard negatives.
    documents: Vec<u64>,
}

/// The two sides that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    /// Query `i` and document `j`.
    QueriesAndDocuments,
    /// Query `i` and query `j`.
    Queries,
    /// Query `i`'s own document and document `j`.
    Documents,
}

impl FalseNegatives {
    /// Every other document is a negative.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Compares pairs by each aspect's ids, `[b]` each; aspects without ids are left out. Hard
    /// negatives are compared with nothing.
    ///
    /// # Panics
    /// When two aspects have ids for different numbers of pairs.
    #[must_use]
    pub fn by_ids(aspects: &[&[u64]]) -> Self {
        let aspects: Vec<Aspect<'_>> =
            aspects.iter().map(|queries| Aspect { queries, documents: &[] }).collect();
        Self::by_aspects(&aspects)
    }

    /// Compares queries and documents by each aspect's ids; aspects without ids are left out.
    ///
    /// # Panics
    /// When two aspects have ids for different numbers of queries, or documents' ids are not a
    /// multiple of the queries'.
    #[must_use]
    pub fn by_aspects(aspects: &[Aspect<'_>]) -> Self {
        let aspects: Vec<Ids> = aspects
            .iter()
            .filter(|aspect| !aspect.queries.is_empty())
            .map(|Aspect { queries, documents }| {
                let documents = if documents.is_empty() { queries } else { documents };
                Ids { queries: queries.to_vec(), documents: documents.to_vec() }
            })
            .collect();
        let n_queries = aspects.first().map_or(0, |ids| ids.queries.len());
        let mut marked = [const { Vec::new() }; 3];
        marked.iter_mut().for_each(|rows| rows.resize(n_queries, false));
        for ids in &aspects {
            assert_eq!(ids.queries.len(), n_queries, "every aspect has one id per query");
            assert!(ids.documents.len().is_multiple_of(n_queries), "ids of 1+m documents a query");
            ids.mark(&mut marked);
        }
        Self { aspects, own: Vec::new(), taught: None, n_queries, marked }
    }

    /// Leaves out each document that a teacher scores above the query's threshold, whoever's it is.
    /// Queries between each other, and own documents, are compared with the same threshold.
    ///
    /// # Panics
    /// When there is not a vector for every query of the ids, or not `1+m` documents for each.
    #[must_use]
    pub fn with_teacher(mut self, vectors: TeacherVectors, threshold: TeacherThreshold) -> Self {
        let (n_queries, n_documents) = (vectors.queries.len(), vectors.documents.len());
        let whole = n_queries > 0 && n_documents > 0 && n_documents.is_multiple_of(n_queries);
        assert!(whole, "a teacher's vectors of {n_documents} documents for {n_queries} queries");
        self.set_queries(n_queries);
        self.taught = Some(Taught::new(vectors, threshold));
        self
    }

    /// Leaves out, for its own query only, each hard negative that a teacher scores above the query's
    /// threshold.
    ///
    /// # Shapes
    /// `scores`: `[b, 1+m]`, own documents first
    ///
    /// # Panics
    /// When the scores are not whole rows, or the ids are of another number of queries.
    #[must_use]
    pub fn with_teacher_scores(
        mut self,
        scores: &[f32],
        n_queries: usize,
        threshold: TeacherThreshold,
    ) -> Self {
        let whole = n_queries > 0 && !scores.is_empty() && scores.len().is_multiple_of(n_queries);
        assert!(whole, "{} scores for {n_queries} queries", scores.len());
        self.set_queries(n_queries);
        let rows = scores.chunks_exact(scores.len() / n_queries);
        for (row, mark) in rows.zip(&mut self.marked[Between::QueriesAndDocuments as usize]) {
            let threshold = threshold.of(row[0].into());
            self.own.extend(row[1..].iter().map(|score| f64::from(*score) > threshold));
            *mark |= row[1..].iter().any(|score| f64::from(*score) > threshold);
        }
        self
    }

    fn set_queries(&mut self, n_queries: usize) {
        assert!(self.fits(n_queries), "{} ids for {n_queries} queries", self.n_queries);
        self.n_queries = n_queries;
        self.marked.iter_mut().for_each(|rows| rows.resize(n_queries, false));
    }

    /// Whether query `i` leaves out document `j`, which is not its own.
    ///
    /// # Panics
    /// When ids were given and `i` is out of range, or a teacher's vectors and `i` or `j` is.
    #[must_use]
    pub fn contains(&self, i: usize, j: usize) -> bool {
        self.leaves_out(Between::QueriesAndDocuments, i, j)
    }

    /// Number of pairs of a query and a document that do not count as negatives; quadratic, for small
    /// batches.
    #[must_use]
    pub fn count(&self) -> usize {
        let known = self.aspects.iter().map(|ids| ids.documents.len());
        let taught = self.taught.iter().map(Taught::n_documents);
        let n_documents = known.chain(taught).max().unwrap_or(0);
        let n_documents = n_documents.max(self.n_queries + self.own.len());
        let pairs = (0..self.n_queries).flat_map(|i| (0..n_documents).map(move |j| (i, j)));
        pairs.filter(|(i, j)| self.contains(*i, *j)).count()
    }

    pub(super) fn leaves_out(&self, between: Between, i: usize, j: usize) -> bool {
        let mut found = false;
        self.for_each_left_out(between, i..i + 1, j..j + 1, |_, _| found = true);
        found
    }

    /// Shows the pairs of `rows` and `columns` that are left out, some of them twice.
    pub(super) fn for_each_left_out(
        &self,
        between: Between,
        rows: Range<usize>,
        columns: Range<usize>,
        mut visit: impl FnMut(usize, usize),
    ) {
        for i in rows.clone().filter(|i| self.any_known(between, *i)) {
            let known = columns.clone().filter(|j| self.is_known(between, i, *j));
            known.for_each(|j| visit(i, j));
        }
        if let Some(taught) = &self.taught {
            taught.for_each_fit(between, rows, columns, visit);
        }
    }

    /// Whether row `i` leaves out anything by ids or by scores.
    fn any_known(&self, between: Between, row: usize) -> bool {
        self.marked[between as usize].get(row).copied().unwrap_or(false)
    }

    fn is_known(&self, between: Between, i: usize, j: usize) -> bool {
        let by_scores = between == Between::QueriesAndDocuments && self.is_scored(i, j);
        i != j && (by_scores || self.aspects.iter().any(|ids| ids.equal(between, i, j)))
    }

    /// Whether `j` is a hard negative of query `i` that its teacher's scores leave out.
    fn is_scored(&self, i: usize, j: usize) -> bool {
        if self.own.is_empty() || j < self.n_queries {
            return false;
        }
        let negative = j - self.n_queries;
        negative / (self.own.len() / self.n_queries) == i && self.own[negative]
    }

    pub(super) fn assert_fits(&self, n_queries: usize, n_documents: usize) {
        assert!(self.fits(n_queries), "{} ids for {n_queries} queries", self.n_queries);
        let fits = |n: usize| n == n_queries || n == n_documents;
        let documents = self.aspects.iter().all(|ids| fits(ids.documents.len()));
        assert!(documents, "ids for another number of documents than {n_documents}");
        assert!(self.own.is_empty() || self.own.len() == n_documents - n_queries);
        let taught = self.taught.as_ref().is_none_or(|taught| taught.fit(n_queries, n_documents));
        assert!(taught, "a teacher's vectors for another number of documents than {n_documents}");
    }

    fn fits(&self, n_queries: usize) -> bool {
        self.n_queries == 0 || self.n_queries == n_queries
    }
}

impl Ids {
    fn equal(&self, between: Between, i: usize, j: usize) -> bool {
        let document = self.documents.get(j);
        match between {
            Between::QueriesAndDocuments => document == Some(&self.queries[i]),
            Between::Queries => self.queries[i] == self.queries[j],
            Between::Documents => {
                document == Some(&self.queries[i]) || document == Some(&self.documents[i])
            }
        }
    }

    /// Marks the rows that anything equals, in the order of [`Between`].
    fn mark(&self, marked: &mut [Vec<bool>; 3]) {
        let (queries, documents) = (count(&self.queries), count(&self.documents));
        for (i, query) in self.queries.iter().enumerate() {
            let own = self.documents[i];
            let others = documents.get(query).copied().unwrap_or(0);
            let fits = others > usize::from(own == *query);
            marked[Between::QueriesAndDocuments as usize][i] |= fits;
            marked[Between::Queries as usize][i] |= queries[query] > 1;
            marked[Between::Documents as usize][i] |= fits || documents[&own] > 1;
        }
    }
}

fn count(ids: &[u64]) -> HashMap<u64, usize> {
    let mut counts = HashMap::with_capacity(ids.len());
    for id in ids {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_with_an_equal_id_in_any_aspect_are_no_negatives() {
        let same = FalseNegatives::by_ids(&[&[1, 2, 1, 3], &[], &[7, 8, 9, 8]]);
        assert!(same.contains(0, 2) && same.contains(2, 0), "equal text");
        assert!(same.contains(1, 3), "equal image");
        assert!(!same.contains(0, 1) && !same.contains(0, 0));
        assert!(!same.contains(0, 4), "a hard negative without an id");
        assert_eq!(same.count(), 4);
        assert_eq!(FalseNegatives::by_ids(&[&[1, 2]]).count(), 0);
    }

    #[test]
    fn documents_that_fit_a_query_are_no_negatives_of_it() {
        // Two queries, their own documents, two hard negatives each.
        let aspect = Aspect { queries: &[1, 2], documents: &[5, 2, 1, 6, 2, 5] };
        let same = FalseNegatives::by_aspects(&[aspect]);
        let found: Vec<(usize, usize)> = (0..2)
            .flat_map(|i| (0..6).map(move |j| (i, j)))
            .filter(|(i, j)| same.contains(*i, *j))
            .collect();
        assert_eq!(found, [(0, 2), (1, 4)]);
        assert_eq!(same.count(), 2);
        let documents = |i, j| same.leaves_out(Between::Documents, i, j);
        assert!(documents(0, 5), "the own document of query 0 once more");
        assert!(documents(0, 2), "what query 0 asks for");
        assert!(!documents(0, 4) && !documents(0, 3));
        assert!(!same.any_known(Between::Queries, 0));
    }

    #[test]
    fn rows_are_marked_exactly_where_something_is_left_out() {
        // Some queries fit a document, some own documents are there twice, some rows are alone.
        let queries = [0, 1, 2, 2, 4, 5, 6, 7, 8, 9];
        let documents: Vec<u64> =
            (0..30).map(|j| [j, j % 10, 10 + j % 3][j % 10 % 3] as u64 + 3).collect();
        let aspect = Aspect { queries: &queries, documents: &documents };
        let same = FalseNegatives::by_aspects(&[aspect]);
        let sides =
            [(Between::QueriesAndDocuments, 30), (Between::Queries, 10), (Between::Documents, 30)];
        for (between, n) in sides {
            let found: Vec<bool> = (0..10).map(|i| same.any_known(between, i)).collect();
            let expected: Vec<bool> =
                (0..10).map(|i| (0..n).any(|j| same.leaves_out(between, i, j))).collect();
            assert_eq!(found, expected, "{between:?}");
            assert!(found.contains(&true) && found.contains(&false), "{between:?} {found:?}");
        }
    }

    #[test]
    fn a_teacher_leaves_out_what_it_scores_close_to_the_own_document() {
        let scores = [1.0, 0.96, 0.94, -1.0, -1.06, -1.02, 0.0, 0.1, 0.0];
        let same =
            FalseNegatives::none().with_teacher_scores(&scores, 3, TeacherThreshold::Share(0.95));
        let found: Vec<bool> = (0..3)
            .flat_map(|i| (0..2).map(move |k| (i, 3 + 2 * i + k)))
            .map(|(i, j)| same.contains(i, j))
            .collect();
        assert_eq!(found, [true, false, false, true, true, false]);
        assert!(!same.contains(1, 3), "other queries keep it");
        assert_eq!(same.count(), 3);
        assert!(!same.any_known(Between::Documents, 0));
    }
}
