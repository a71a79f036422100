//! Models that rank, of either kind.
//!
//! In:  a folder with a cross-encoder or a model of late interaction. Out: a [`Ranker`].

use std::path::Path;

use conjoin_core::{EmbedError, Relevance, Reranker, Stop, Tower};

use crate::{
    CalibrationError, CrossEncoder, LateInteraction, ModelCalibration, ModelError, ModelErrorKind,
    SAMPLE_SIZE, Sequence, SequenceTower, TowerPrecision,
    calibration::{calibrate, sampled},
    families::{
        colbert::{self, LatePlan},
        cross_encoder::{self, PairPlan},
    },
};

/// A loaded model that ranks.
#[derive(Debug)]
pub enum Ranker {
    /// Reads a query and a document together.
    CrossEncoder(Box<CrossEncoder>),
    /// Compares their tokens.
    LateInteraction(Box<LateInteraction>),
}

/// Opens a folder with a model that ranks: a cross-encoder, or one of late interaction.
///
/// # Errors
/// When it holds neither, gives several scores per pair, or says something this build does not
/// implement.
pub fn open_reranker(folder: &Path) -> Result<Ranker, ModelError> {
    open(folder).map_err(|kind| kind.at(folder.display().to_string()))
}

fn open(folder: &Path) -> Result<Ranker, ModelErrorKind> {
    let inner = |error: ModelError| error.kind;
    if colbert::is_here(folder)? {
        let model = LatePlan::read(folder).map_err(inner)?.build()?;
        return Ok(Ranker::LateInteraction(Box::new(model)));
    }
    if !cross_encoder::is_here(folder)? {
        return Err(ModelErrorKind::NoReranker);
    }
    let model = PairPlan::read(folder).map_err(inner)?.build()?;
    match model.tower().width() {
        1 => Ok(Ranker::CrossEncoder(Box::new(model))),
        n => Err(ModelErrorKind::SeveralScores(n)),
    }
}

impl Ranker {
    /// Computes products as told from now on; scores differ by little more than rounding.
    ///
    /// # Errors
    /// When an exception names no parameter.
    pub fn set_precision(&mut self, precision: &TowerPrecision) -> Result<(), ModelErrorKind> {
        self.tower_mut().set_precision(precision)
    }

    /// Measures the precisions on a query and documents, and leaves the model in the fastest that is near
    /// enough to `f32`: whose scores correlate with those, or whose tokens' vectors are near.
    ///
    /// # Errors
    /// When a text cannot be read, or it was asked to stop.
    pub fn calibrate(
        &mut self,
        query: &str,
        documents: &[&str],
        stop: &Stop,
    ) -> Result<ModelCalibration, CalibrationError> {
        let documents = &documents[..documents.len().min(SAMPLE_SIZE)];
        let sequences: Vec<Sequence> = match self {
            Self::CrossEncoder(model) => documents
                .iter()
                .map(|document| Ok(model.sequence(model.tokenize(query, document)?)))
                .collect::<Result<_, EmbedError>>()?,
            Self::LateInteraction(model) => {
                let query = model.query_sequence(query);
                let documents = documents.iter().map(|document| model.document_sequence(document));
                [query].into_iter().chain(documents).collect::<Result<_, EmbedError>>()?
            }
        };
        let sequences = sampled(sequences, |sequence| sequence.ids.len());
        let sequences: Vec<&Sequence> = sequences.iter().collect();
        let tower = self.tower_mut();
        let width = tower.width();
        let text = (!documents.is_empty()).then(|| calibrate(tower, &sequences, width, stop));
        Ok(ModelCalibration { text: text.transpose()?, image: None })
    }

    /// The tower.
    #[must_use]
    pub fn tower(&self) -> &SequenceTower {
        match self {
            Self::CrossEncoder(model) => model.tower(),
            Self::LateInteraction(model) => model.tower(),
        }
    }

    fn tower_mut(&mut self) -> &mut SequenceTower {
        match self {
            Self::CrossEncoder(model) => model.tower_mut(),
            Self::LateInteraction(model) => model.tower_mut(),
        }
    }

    fn inner(&self) -> &dyn Reranker {
        match self {
            Self::CrossEncoder(model) => &**model,
            Self::LateInteraction(model) => &**model,
        }
    }
}

impl Reranker for Ranker {
    fn fingerprint(&self) -> &str {
        self.inner().fingerprint()
    }

    fn max_tokens(&self) -> usize {
        self.inner().max_tokens()
    }

    fn rerank(&self, query: &str, documents: &[&str]) -> Result<Vec<Relevance>, EmbedError> {
        self.inner().rerank(query, documents)
    }
}
