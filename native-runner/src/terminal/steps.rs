//! Progress of work that is counted in steps.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::Terminal;
use super::plot::plot;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// A plot is at most this large, and has half of a terminal's lines.
const WIDEST: usize = 100;
const HIGHEST: usize = 14;

/// A bar with the time left on a terminal, a line now and then elsewhere.
pub struct Steps {
    bar: ProgressBar,
    lines: bool,
    total: usize,
    started: Instant,
    last_line: Instant,
    /// Values that are shown as a plot above the bar: a line, and marks.
    curve: Option<[Vec<(f64, f64)>; 2]>,
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
        Steps { bar, lines, total, started: now, last_line: now, curve: None }
    }

    /// [`Self::steps`] with a plot of values above the bar, on a terminal that has room for it.
    pub fn curve(self, total: usize) -> Steps {
        let mut steps = self.steps(total);
        steps.curve = (!steps.bar.is_hidden()).then(Default::default);
        steps
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

impl Steps {
    /// More points of the plot: of its line, and of its marks.
    pub fn add(&mut self, of_line: Option<(f64, f64)>, mark: Option<(f64, f64)>) {
        let Some([line, marks]) = &mut self.curve else { return };
        line.extend(of_line);
        marks.extend(mark);
        if let Some(plot) = self.plot() {
            self.bar.set_style(style_below_plot());
            self.bar.set_prefix(plot);
        }
    }

    fn plot(&self) -> Option<String> {
        let [line, marks] = self.curve.as_ref()?;
        let (rows, columns) = Term::stderr().size();
        let (columns, rows) = (usize::from(columns), usize::from(rows));
        plot(
            line,
            marks,
            self.total as f64,
            columns.saturating_sub(1).min(WIDEST),
            (rows / 2).min(HIGHEST),
        )
    }

    /// Prints something while the bar is away.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away and leaves the plot.
    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
        if let Some(plot) = self.plot() {
            eprintln!("{plot}");
        }
        self.curve = None;
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style_below_plot() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}\n{msg} {wide_bar} {pos}/{len} {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
