//! What the server's tests share: a deterministic model and store, a server on a free port, and the
//! smallest HTTP client that will do.

mod fakes;
pub(crate) mod http;

use std::{sync::Arc, thread::JoinHandle};

use conjoin_core::Stop;
use conjoin_serve::{ServeConfig, ServeError, Server};

pub(crate) use fakes::{FakeItem, FakeModel, FakeStore};
pub(crate) use http::send;

/// A running server; dropped, it is stopped.
pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) stop: Stop,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Running {
    pub(crate) fn start(config: ServeConfig, model: Arc<FakeModel>, store: FakeStore) -> Self {
        let config = ServeConfig { address: ([127, 0, 0, 1], 0).into(), ..config };
        let server = Server::bind(config, model, Arc::new(store)).unwrap();
        let (address, stop) = (server.address().to_string(), Stop::default());
        let stopped = stop.clone();
        let thread = Some(std::thread::spawn(move || server.run(&stopped)));
        Self { address, stop, thread }
    }

    /// Waits until the server has ended.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
        self.join();
    }
}
