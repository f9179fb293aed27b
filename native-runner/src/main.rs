//! The `engram` command. It knows files, arguments and the terminal; what it does with them is the
//! library's.

mod adapter;
mod cli;
mod commands;
mod config;
mod dataset;
mod engine;
mod export;
mod interrupt;
mod memory;
mod runs;
mod self_test;
mod session;
mod source;
mod staged;
mod table;
mod terminal;
mod variants;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => return report(&error),
    };
    terminal::log_to_stderr(&cli.global);
    match interrupt::install().and_then(|()| commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Says what went wrong in one line on stderr; the exit code that goes with it.
fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_interruption) {
        return ExitCode::from(interrupt::EXIT_CODE);
    }
    if error.chain().any(is_broken_pipe) {
        // Whoever read our output has enough of it, as `engram … | head` does.
        return ExitCode::SUCCESS;
    }
    let line = format!("{error:#}");
    eprintln!("error: {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    ExitCode::from(2)
}

fn is_interruption(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<interrupt::Interrupted>()
        || matches!(cause.downcast_ref(), Some(engram::Error::Cancelled))
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
