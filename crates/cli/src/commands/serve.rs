//! `conjoin serve`: HTTP until Ctrl-C.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use conjoin_core::Stop;
use conjoin_index::Index;
use conjoin_model::Model;
use conjoin_serve::{ServeConfig, Server};

use crate::{Outcome, args::Serve, console::Console, pipeline};

pub(crate) fn run(args: &Serve, console: &Console, stop: &Stop) -> Result<Outcome> {
    let with = (console, stop);
    let opened = pipeline::open_search(&args.index, args.model.as_ref(), &args.precision, with)?;
    serve(opened, args.address, console, stop)
}

/// Serves an index until a stop is requested.
pub(crate) fn serve(
    (index, model): (Index, Model),
    address: SocketAddr,
    console: &Console,
    stop: &Stop,
) -> Result<Outcome> {
    let name = model.spec().card.name.clone();
    let config = ServeConfig { address, model: name, ..ServeConfig::default() };
    let server = Server::bind(config, Arc::new(model), Arc::new(index))?;
    console.say(&format!("serving on http://{}/ (Ctrl-C ends)", server.address()));
    server.run(stop)?;
    console.say("server stopped");
    Ok(Outcome::Done)
}
