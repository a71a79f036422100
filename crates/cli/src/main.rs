//! The `conjoin` binary: it reads the command line, joins the stages and tells how it went.
//!
//! Exit codes: 0 done, 1 a check said no (a gate, a verification), 2 could not.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "talking to people is its job")]

mod args;
mod assets;
mod batches;
mod commands;
mod console;
mod machine;
mod observer;
mod pairs;
mod pipeline;
mod recipe;
mod stages;
mod start;
mod tasks;
mod thumbnails;

use std::process::ExitCode;

use clap::Parser;
use conjoin_core::{Interrupted, Stop};

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
        eprintln!("\nstopping at the next safe point; Ctrl-C again ends at once");
        on_signal.request();
    });
    if let Err(error) = handler {
        eprintln!("warning: Ctrl-C will end the program at once: {error}");
    }
    let console = Console::new(args.quiet);
    match commands::run(args.command, &console, &stop) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            console.clear();
            tell(&error);
            ExitCode::from(2)
        }
    }
}

/// Prints an error, its causes and, where one is known, the way out.
fn tell(error: &anyhow::Error) {
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        eprintln!("interrupted: what was finished is kept, the same command goes on from there");
        return;
    }
    eprintln!("error: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            eprintln!("  cause: {cause}");
            said = cause;
        }
    }
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
