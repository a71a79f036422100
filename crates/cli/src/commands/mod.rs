//! The commands, one file each.

mod adapt;
mod curate;
mod demo;
mod doctor;
mod embed;
mod eval;
mod export;
mod index;
mod rerank;
mod search;
mod serve;
mod train;

use anyhow::Result;
use conjoin_core::Stop;

use crate::{Outcome, args::Command, console::Console};

/// Runs a command.
pub(crate) fn run(command: Command, console: &Console, stop: &Stop) -> Result<Outcome> {
    match command {
        Command::Demo(args) => demo::run(&args, console, stop),
        Command::Adapt(args) => adapt::run(&args, console, stop),
        Command::Curate(args) => curate::run(&args, console, stop),
        Command::Train(args) => train::run(&args, console, stop),
        Command::Eval(args) => eval::run(&args, console, stop),
        Command::Embed(args) => embed::run(&args, console, stop),
        Command::Export(args) => export::run(&args, console, stop),
        Command::Index(args) => index::run(&args, console, stop),
        Command::Rerank(args) => rerank::run(&args, console, stop),
        Command::Search(args) => search::run(&args, console, stop),
        Command::Doctor(args) => doctor::run(&args, console, stop),
        Command::Serve(args) => serve::run(&args, console, stop),
    }
}
