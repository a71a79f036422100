//! What every request passes: a panic is a 500, slow work ends, and too much is refused.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    task::Poll,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};

use crate::{error::ApiError, routes::App};

/// Ends a request that takes too long and turns a panic into an answer.
pub(crate) async fn bound(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let limit_ms = app.config.timeout_ms;
    let limit = Duration::from_millis(limit_ms);
    match tokio::time::timeout(limit, unpanicked(next.run(request))).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::Timeout { limit_ms }),
    }
}

/// Lets in as many requests as are allowed; the next is told to come back.
pub(crate) async fn admit(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let _place = app.places.try_acquire().map_err(|_| ApiError::Overloaded)?;
    Ok(next.run(request).await)
}

/// A panic while the future is polled is [`ApiError::Internal`]; the future is not polled again.
async fn unpanicked<T>(future: impl Future<Output = T>) -> Result<T, ApiError> {
    let mut future = Box::pin(future);
    poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(ApiError::Internal)),
    })
    .await
}
