//! Listens, answers and stops.
//!
//! In:  a checked configuration, a model and an index. Out: a running HTTP server.
//! Not here: what the answers are (`routes`).

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use conjoin_core::{Embedder, Stop, Store};

use crate::{ServeConfig, ServeError, routes::App};

/// How often a stop is looked for.
const STOP_POLL: Duration = Duration::from_millis(25);

/// A server that has its address but does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ServeConfig,
    embedder: Arc<dyn Embedder>,
    store: Arc<dyn Store>,
}

impl Server {
    /// Takes the address. Requests that come before [`Server::run`] wait.
    ///
    /// # Errors
    /// When a setting is out of its range, the index belongs to another model, or the address is
    /// not free.
    pub fn bind(
        config: ServeConfig,
        embedder: Arc<dyn Embedder>,
        store: Arc<dyn Store>,
    ) -> Result<Self, ServeError> {
        config.check()?;
        if embedder.fingerprint() != store.fingerprint() {
            let (index, model) =
                (store.fingerprint().to_owned(), embedder.fingerprint().to_owned());
            return Err(ServeError::Fingerprint { index, model });
        }
        let fail = |source| ServeError::Bind { address: config.address, source };
        let listener = TcpListener::bind(config.address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address, config, embedder, store })
    }

    /// The address taken, with the port the system chose where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until a stop is requested, then lets open requests finish for a while.
    /// Blocks the calling thread; it needs no async runtime around it.
    ///
    /// # Errors
    /// When the system refuses threads or sockets.
    pub fn run(self, stop: &Stop) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(ServeError::Run)?;
        let result = runtime.block_on(self.answer(stop.clone()));
        // Work of timed-out requests may still be on a blocking thread; it is not waited for.
        runtime.shutdown_background();
        result
    }

    async fn answer(self, stop: Stop) -> Result<(), ServeError> {
        let drain = Duration::from_millis(self.config.drain_ms);
        let listener = tokio::net::TcpListener::from_std(self.listener).map_err(ServeError::Run)?;
        let app = App::new(self.config, self.embedder, self.store).router();
        let graceful = axum::serve(listener, app).with_graceful_shutdown(stopped(stop.clone()));
        let answering = tokio::spawn(graceful.into_future());
        stopped(stop).await;
        match tokio::time::timeout(drain, answering).await {
            Ok(Ok(result)) => result.map_err(ServeError::Run),
            // A connection that outlasts the drain time is cut.
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

async fn stopped(stop: Stop) {
    while !stop.requested() {
        tokio::time::sleep(STOP_POLL).await;
    }
}
