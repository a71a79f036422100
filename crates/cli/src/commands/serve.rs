//! `conjoin serve`: HTTP until Ctrl-C.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Result;
use conjoin_core::Stop;
use conjoin_hub::ModelName;
use conjoin_serve::{ServeConfig, Server};

use crate::{Outcome, args::Serve, console::Console, pipeline};

pub(crate) fn run(args: &Serve, console: &Console, stop: &Stop) -> Result<Outcome> {
    serve(&args.index, args.model.as_ref(), args.address, console, stop)
}

/// Serves an index until a stop is requested.
pub(crate) fn serve(
    index: &Path,
    model: Option<&ModelName>,
    address: SocketAddr,
    console: &Console,
    stop: &Stop,
) -> Result<Outcome> {
    let (index, model) = pipeline::open_search(index, model, (console, stop))?;
    let name = model.spec().card.name.clone();
    let config = ServeConfig { address, model: name, ..ServeConfig::default() };
    let server = Server::bind(config, Arc::new(model), Arc::new(index))?;
    console.say(&format!("serving on http://{}/ (Ctrl-C ends)", server.address()));
    server.run(stop)?;
    console.say("server stopped");
    Ok(Outcome::Done)
}
