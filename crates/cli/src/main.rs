//! The `conjoin` binary: it reads the command line, joins the stages and tells how it went.
//!
//! Exit codes: 0 done, 1 a check said no (a gate, a verification), 2 could not.

mod args;
mod assets;
mod batches;
mod card;
mod commands;
mod console;
mod items;
mod machine;
mod measures;
mod models;
mod observer;
mod pipeline;
mod precision;
mod recipe;
mod sources;
mod stages;
mod start;
mod tasks;
mod thumbnails;
mod training;

use std::process::ExitCode;

use clap::Parser;
use conjoin_core::{ArtifactErrorKind, Interrupted, Stop};
use conjoin_index::IndexErrorKind;

use crate::{args::Args, console::Console};

/// How a command that could be done went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Done,
    /// A check said no.
    Refused,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let stop = Stop::default();
    let on_signal = stop.clone();
    let handler = ctrlc::set_handler(move || {
        if on_signal.requested() {
            // The second Ctrl-C: the person means it.
            exit_now();
        }
        console::tell("\nstopping at the next safe point; Ctrl-C again ends at once\n");
        on_signal.request();
    });
    if let Err(error) = handler {
        console::tell(&format!("warning: Ctrl-C will end the program at once: {error}\n"));
    }
    let console = Console::new(args.quiet);
    match commands::run(args.command, &console, &stop) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            console.clear();
            console::tell(&explained(&error));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes, each once.
fn explained(error: &anyhow::Error) -> String {
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        return "interrupted: what was finished is kept, the same command goes on from there\n"
            .to_owned();
    }
    let mut said = String::new();
    for cause in error.chain() {
        // Some parsers end their messages with line breaks.
        let text = cause.to_string().trim_end().replace('\n', "\n  ");
        if !said.contains(&text) {
            said += if said.is_empty() { "error: " } else { "  cause: " };
            said += &text;
            said.push('\n');
        }
    }
    if let Some(hint) = error.chain().find_map(hint) {
        said += &format!("  hint: {hint}\n");
    }
    said
}

/// The way out of an error that does not tell it itself.
fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if cause.is::<conjoin_data::OpenError>() {
        return Some("`conjoin curate` makes a dataset of a catalogue");
    }
    let index = cause.downcast_ref::<conjoin_index::IndexError>()?;
    // The other errors of writing tell the way out, or have none.
    let is_foreign =
        matches!(index.kind, IndexErrorKind::Artifact(ArtifactErrorKind::Foreign { .. }));
    (!is_foreign).then_some("`conjoin index` makes an index of a dataset")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[expect(clippy::exit, reason = "a second Ctrl-C ends the process without waiting")]
fn exit_now() -> ! {
    std::process::exit(130)
}
