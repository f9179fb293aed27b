//! What the program says on stderr: notes, progress, the log.

pub mod columns;
mod plot;
pub mod steps;

use std::fmt::Display;
use std::io::IsTerminal as _;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::cli::Global;

/// How much to say.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    quiet: bool,
}

impl Terminal {
    pub fn new(global: &Global) -> Self {
        Self { quiet: global.quiet }
    }

    /// One that says nothing.
    #[cfg(test)]
    pub fn silent() -> Self {
        Self { quiet: true }
    }

    /// A line for the user, unless quiet.
    pub fn note(self, line: impl Display) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// Shows how many of `total` bytes of `what` are there: a bar on a terminal, a line every
    /// fifth of the way elsewhere.
    pub fn bytes(self, what: &str, total: u64) -> Meter {
        let stderr_is_terminal = std::io::stderr().is_terminal();
        let bar = if stderr_is_terminal && !self.quiet {
            ProgressBar::new(total).with_style(style())
        } else {
            ProgressBar::hidden()
        };
        bar.set_message(what.to_owned());
        let lines = !stderr_is_terminal && !self.quiet && total >= LINES_FROM;
        Meter { bar, lines, what: what.to_owned(), total, done: 0, fifths: 0 }
    }
}

/// Progress of one download.
pub struct Meter {
    bar: ProgressBar,
    lines: bool,
    what: String,
    total: u64,
    done: u64,
    fifths: u64,
}

/// Downloads smaller than this, in bytes, are over too soon for lines.
const LINES_FROM: u64 = 5_000_000;

impl Meter {
    /// `done` bytes are there.
    pub fn set(&mut self, done: u64) {
        self.done = done.min(self.total);
        self.bar.set_position(self.done);
        let fifths = self.done * 5 / self.total.max(1);
        if self.lines && fifths > self.fifths {
            self.fifths = fifths;
            eprintln!("{}: {} of {}", self.what, HumanBytes(self.done), HumanBytes(self.total));
        }
    }

    /// `more` bytes have come.
    pub fn add(&mut self, more: u64) {
        self.set(self.done.saturating_add(more));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Sends the log to stderr: warnings, and by `-v` what our own code does.
pub fn log_to_stderr(global: &Global) {
    let (ours, others) = match (global.quiet, global.verbose) {
        (true, _) => (LevelFilter::ERROR, LevelFilter::ERROR),
        (_, 0) => (LevelFilter::WARN, LevelFilter::ERROR),
        (_, 1) => (LevelFilter::INFO, LevelFilter::WARN),
        (_, 2) => (LevelFilter::DEBUG, LevelFilter::WARN),
        _ => (LevelFilter::TRACE, LevelFilter::INFO),
    };
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(global.verbose > 1)
        .without_time();
    tracing_subscriber::registry()
        .with(format)
        .with(Targets::new().with_default(others).with_target("engram", ours))
        .init();
}
