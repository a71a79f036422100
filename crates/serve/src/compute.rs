//! Runs the model on threads of its own and joins concurrent texts into batches.
//!
//! In:  texts and images of single requests. Out: their vectors.
//! Not here: limits on requests (`guard`), search.
//!
//! One batch of texts is in work at a time; what arrives meanwhile is the next batch. A batch waits
//! a moment for texts of other requests only if there are other requests: a lone one never waits.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use conjoin_core::{EmbedError, Embedder, Task, TokenUse};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{ServeConfig, error::ApiError};

/// Images decoded and embedded together: bounds the memory of decoded pictures.
const IMAGES_AT_ONCE: usize = 16;

/// A text's vector and how much of the text went into it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TextVector {
    pub(crate) vector: Vec<f32>,
    /// How much of the text was read; pictures have no tokens.
    pub(crate) tokens: Option<TokenUse>,
}

type TextResult = Result<Vec<TextVector>, ApiError>;

struct TextJob {
    texts: Vec<String>,
    task: Task,
    reply: oneshot::Sender<TextResult>,
}

/// The model behind its queues.
pub(crate) struct Compute {
    embedder: Arc<dyn Embedder>,
    texts: mpsc::Sender<TextJob>,
    /// Images are embedded for one request at a time: each takes all cores.
    image_turn: Arc<Semaphore>,
}

impl Compute {
    /// Starts the batching of texts; `open_requests` tells how many requests are in work.
    pub(crate) fn start(
        config: &ServeConfig,
        embedder: Arc<dyn Embedder>,
        open_requests: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Self {
        let (texts, jobs) = mpsc::channel(config.max_requests);
        let batcher = Batcher {
            embedder: Arc::clone(&embedder),
            jobs,
            max_texts: config.batch_texts,
            wait: Duration::from_millis(config.batch_wait_ms),
        };
        tokio::spawn(batcher.run(open_requests));
        Self { embedder, texts, image_turn: Arc::new(Semaphore::new(1)) }
    }

    /// Embeds the texts of one request, maybe together with those of others.
    pub(crate) async fn texts(&self, texts: Vec<String>, task: Task) -> TextResult {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        self.texts.send(TextJob { texts, task, reply }).await.map_err(|_| ApiError::Internal)?;
        answer.await.map_err(|_| ApiError::Internal)?
    }

    /// Embeds the images of one request; an unreadable one is its own error.
    pub(crate) async fn images(
        &self,
        images: Vec<Vec<u8>>,
    ) -> Result<Vec<Result<Vec<f32>, EmbedError>>, ApiError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let turn = Arc::clone(&self.image_turn);
        let turn = turn.acquire_owned().await.map_err(|_| ApiError::Internal)?;
        let embedder = Arc::clone(&self.embedder);
        on_thread(move || {
            // Held until the work ends, even when the request is given up before.
            let _turn = turn;
            let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
            let mut vectors = Vec::with_capacity(images.len());
            for images in images.chunks(IMAGES_AT_ONCE) {
                vectors.extend(embedder.embed_images(images).map_err(ApiError::EmbedAll)?);
            }
            Ok(vectors)
        })
        .await?
    }
}

/// Runs work on a blocking thread; a panic there is an error here.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Internal)
}

struct Batcher {
    embedder: Arc<dyn Embedder>,
    jobs: mpsc::Receiver<TextJob>,
    max_texts: usize,
    wait: Duration,
}

impl Batcher {
    async fn run(mut self, open_requests: impl Fn() -> usize) {
        while let Some(first) = self.jobs.recv().await {
            let batch = self.collect(first, &open_requests).await;
            let (embedder, max_texts) = (Arc::clone(&self.embedder), self.max_texts);
            // Panics of the model are caught inside; the batcher itself goes on in any case.
            let work = move || {
                for batch in by_task(batch) {
                    answer(&*embedder, max_texts, batch);
                }
            };
            let _ = on_thread(work).await;
        }
    }

    /// What is queued, and what other requests send within the wait.
    async fn collect(&mut self, first: TextJob, open_requests: impl Fn() -> usize) -> Vec<TextJob> {
        let deadline = Instant::now() + self.wait;
        let mut n_texts = first.texts.len();
        let mut batch = vec![first];
        while n_texts < self.max_texts {
            let job = match self.jobs.try_recv() {
                Ok(job) => job,
                Err(_) if open_requests() <= batch.len() => break,
                Err(_) => match timeout_at(deadline, self.jobs.recv()).await {
                    Ok(Some(job)) => job,
                    Ok(None) | Err(_) => break,
                },
            };
            n_texts += job.texts.len();
            batch.push(job);
        }
        batch
    }
}

/// Requests with the same task together, in the order of their first.
fn by_task(batch: Vec<TextJob>) -> Vec<Vec<TextJob>> {
    let mut groups: Vec<Vec<TextJob>> = Vec::new();
    for job in batch {
        match groups.iter_mut().find(|group| group[0].task == job.task) {
            Some(group) => group.push(job),
            None => groups.push(vec![job]),
        }
    }
    groups
}

/// Embeds a batch of one task and answers its requests. When it fails as a whole, each request is tried
/// alone, so that one bad text costs one request.
fn answer(embedder: &dyn Embedder, max_texts: usize, mut batch: Vec<TextJob>) {
    // A request that was given up needs no answer.
    batch.retain(|job| !job.reply.is_closed());
    let Some(task) = batch.first().map(|job| job.task.clone()) else { return };
    let together: Vec<&str> = batch.iter().flat_map(|j| &j.texts).map(String::as_str).collect();
    let mut vectors = match embed(embedder, max_texts, &together, &task) {
        Ok(vectors) => vectors.into_iter(),
        Err(error) => return answer_alone(embedder, max_texts, batch, error),
    };
    for job in batch {
        let own = vectors.by_ref().take(job.texts.len()).collect();
        // The receiver may have gone meanwhile.
        let _ = job.reply.send(Ok(own));
    }
}

fn answer_alone(
    embedder: &dyn Embedder,
    max_texts: usize,
    batch: Vec<TextJob>,
    mut error: ApiError,
) {
    let alone = batch.len() == 1;
    for job in batch {
        let texts: Vec<&str> = job.texts.iter().map(String::as_str).collect();
        let result = if alone {
            Err(std::mem::replace(&mut error, ApiError::Internal))
        } else {
            embed(embedder, max_texts, &texts, &job.task)
        };
        let _ = job.reply.send(result);
    }
}

fn embed(embedder: &dyn Embedder, max_texts: usize, texts: &[&str], task: &Task) -> TextResult {
    let mut vectors = Vec::with_capacity(texts.len());
    for texts in texts.chunks(max_texts) {
        let work = AssertUnwindSafe(|| embed_chunk(embedder, texts, task));
        let chunk = catch_unwind(work).map_err(|_| ApiError::Internal)?;
        vectors.extend(chunk.map_err(ApiError::EmbedAll)?);
    }
    Ok(vectors)
}

fn embed_chunk(
    embedder: &dyn Embedder,
    texts: &[&str],
    task: &Task,
) -> Result<Vec<TextVector>, EmbedError> {
    let found = embedder.embed_texts(texts, task)?;
    let rows = found.vectors.rows().zip(&found.tokens);
    let vector = |(row, tokens): (&[f32], &TokenUse)| TextVector {
        vector: row.to_vec(),
        tokens: Some(*tokens),
    };
    Ok(rows.map(vector).collect())
}
