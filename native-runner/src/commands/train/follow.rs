//! Whoever follows a run: its metrics file, TensorBoard, and the one at the terminal.

use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Options;
use super::metrics::Metrics;
use crate::runs::tensorboard::EventFile;
use crate::runs::{METRICS, curve};
use crate::terminal::Terminal;
use crate::terminal::steps::Steps;

/// TensorBoard's tags of what the metrics name.
const TAGS: [(&str, &str); 9] = [
    ("train_loss", "train/loss"),
    ("learning_rate", "train/learning_rate"),
    ("gradient_norm", "train/gradient_norm"),
    ("tokens_per_second", "train/tokens_per_second"),
    ("val_loss", "val/loss"),
    ("eval_accuracy", "eval/accuracy"),
    ("test_loss", "test/loss"),
    ("rewards/accuracies", "train/rewards/accuracies"),
    ("rewards/margins", "train/rewards/margins"),
];

/// All who follow a run.
pub struct Follow {
    metrics: Metrics,
    events: Option<EventFile>,
    steps: Steps,
}

impl Follow {
    /// Of a run of `iters` iterations, `done` of which are done.
    pub fn begin(options: &Options, terminal: Terminal, done: usize, iters: usize) -> Result<Self> {
        let folder = &options.adapter_path;
        let metrics = Metrics::open(&metrics_of(options), options.resume.then_some(done))?;
        let events = options.tensorboard.as_ref().map(|other| {
            let folder: &Path = other.as_deref().unwrap_or(folder);
            EventFile::create(folder, done)
        });
        let steps = terminal.curve(iters);
        Ok(Self { metrics, events: events.transpose()?, steps })
    }

    /// The validation losses so far, of a run that is resumed.
    pub fn validations(&self, options: &Options) -> Result<impl Iterator<Item = f64> + use<>> {
        let path = metrics_of(options);
        let name = path.display().to_string();
        let lines = std::fs::read_to_string(&path).with_context(|| name.clone())?;
        let (curve, _) = curve::parse(&name, &lines)?;
        Ok(curve.into_iter().filter_map(|point| point.validation))
    }

    /// A line for people, and the same for programs.
    pub fn note(&mut self, line: impl Display, entry: &Value) -> Result<()> {
        self.steps.suspend(|| writeln!(std::io::stdout(), "{line}"))?;
        self.metrics.write(entry)?;
        let Some(iteration) = entry["iteration"].as_u64() else { return Ok(()) };
        let values: Vec<(&str, f32)> = TAGS
            .iter()
            .filter_map(|(name, tag)| Some((*tag, entry[*name].as_f64()? as f32)))
            .collect();
        if let Some(events) = &mut self.events {
            events.scalars(iteration as usize, &values)?;
        }
        let loss = |name: &str| Some((iteration as f64, entry[name].as_f64()?));
        self.steps.add(loss("train_loss"), loss("val_loss"));
        Ok(())
    }

    /// `done` iterations are done; `what` is how it goes.
    pub fn set(&mut self, done: usize, what: impl Display) {
        self.steps.set(done, what);
    }

    /// Ends what is shown at the terminal.
    pub fn end(&mut self) {
        self.steps.finish();
    }
}

/// Where the metrics go.
pub fn metrics_of(options: &Options) -> PathBuf {
    options.metrics.clone().unwrap_or_else(|| options.adapter_path.join(METRICS))
}
