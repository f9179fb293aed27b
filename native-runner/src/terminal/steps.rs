//! Progress of work that is counted in steps.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::Terminal;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// A bar with the time left on a terminal, a line now and then elsewhere.
pub struct Steps {
    bar: ProgressBar,
    lines: bool,
    total: usize,
    started: Instant,
    last_line: Instant,
}

impl Terminal {
    /// Shows how many of `total` steps are done.
    pub fn steps(self, total: usize) -> Steps {
        let stderr_is_terminal = std::io::stderr().is_terminal();
        let bar = if stderr_is_terminal && !self.quiet {
            ProgressBar::new(total as u64).with_style(style())
        } else {
            ProgressBar::hidden()
        };
        let now = Instant::now();
        let lines = !stderr_is_terminal && !self.quiet;
        Steps { bar, lines, total, started: now, last_line: now }
    }
}

impl Steps {
    /// `done` steps are done; `what` is being done.
    pub fn set(&mut self, done: usize, what: impl Display) {
        self.bar.set_message(what.to_string());
        self.bar.set_position(done as u64);
        if self.lines && self.last_line.elapsed() >= LINE_EVERY && done > 0 {
            self.last_line = Instant::now();
            let left = self.started.elapsed().mul_f64(self.total as f64 / done as f64 - 1.0);
            eprintln!("{what}: {done} of {}, {} left", self.total, HumanDuration(left));
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
