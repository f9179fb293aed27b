//! What is watched during a training: whether the validation loss still falls, and how many
//! questions the adapter answers.

use std::ops::ControlFlow;

use anyhow::{Result, ensure};
use clap::{Args, value_parser};
use engram::eval::{EngineCandidate, EvalConfig, Example, evaluate_candidate};
use engram::generate::Engine;
use engram::model::AnyAdapter;
use serde_json::{Value, json};

use crate::commands::eval::questions::Source;
use crate::dataset::{DataSpec, FeatureOptions};
use crate::terminal::Terminal;
use crate::{interrupt, session};

/// Options of what is watched.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Watching")]
pub struct WatchOptions {
    /// End after so many validations in a row that were not the best; best/ has that one's adapter
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub early_stopping_patience: Option<u32>,

    /// Ask the questions of a test set during the training: files, a folder, or hf:ORG/NAME
    #[arg(long, value_name = "DATA", value_delimiter = ',')]
    pub eval_data: Vec<DataSpec>,

    /// Iterations between these evaluations; there is one at the end too [default: 100]
    #[arg(long, value_name = "ITERATIONS", value_parser = value_parser!(u32).range(1..))]
    pub eval_every: Option<u32>,

    /// How many of the questions, the first ones [default: 50]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub eval_examples: Option<u32>,
}

impl WatchOptions {
    /// The options by their keys in a config file.
    pub fn settings(&self) -> [(&'static str, Option<Value>); 4] {
        let data: Vec<String> = self.eval_data.iter().map(DataSpec::to_string).collect();
        [
            ("early_stopping_patience", self.early_stopping_patience.map(|n| json!(n))),
            ("eval_data", (!data.is_empty()).then(|| json!(data))),
            ("eval_every", self.eval_every.map(|n| json!(n))),
            ("eval_examples", self.eval_examples.map(|n| json!(n))),
        ]
    }
}

/// Whether the validation loss still falls.
pub struct Patience {
    most: Option<u32>,
    best: f64,
    /// Validations since the best.
    since: u32,
}

impl Patience {
    /// After the validations that were done already.
    pub fn new(options: &WatchOptions, losses: impl Iterator<Item = f64>) -> Self {
        let mut patience =
            Self { most: options.early_stopping_patience, best: f64::INFINITY, since: 0 };
        losses.for_each(|loss| patience.note(loss));
        patience
    }

    /// Another validation.
    pub fn note(&mut self, loss: f64) {
        if loss < self.best {
            (self.best, self.since) = (loss, 0);
        } else {
            self.since = self.since.saturating_add(1);
        }
    }

    /// After how many validations it is at its end, if it is.
    pub fn is_over(&self) -> Option<u32> {
        self.most.filter(|most| self.since >= *most)
    }
}

/// Questions that are asked during a training.
pub struct Questions {
    examples: Vec<Example>,
    every: usize,
}

/// Right answers.
pub struct Answers {
    pub correct: usize,
    pub n: usize,
}

impl Questions {
    /// Reads the questions; none if there is nothing to ask.
    pub fn read(
        options: &WatchOptions,
        features: &FeatureOptions,
        terminal: Terminal,
    ) -> Result<Option<Self>> {
        if options.eval_data.is_empty() {
            ensure!(
                options.eval_every.is_none() && options.eval_examples.is_none(),
                "--eval-every and --eval-examples say how to ask --eval-data; name that too"
            );
            return Ok(None);
        }
        let source = Source { data: options.eval_data.clone(), features: features.features() };
        let limit = options.eval_examples.unwrap_or(50) as usize;
        let examples = source.read(Some(limit), None, terminal)?.examples;
        Ok(Some(Self { examples, every: options.eval_every.unwrap_or(100) as usize }))
    }

    /// Whether they are asked after an iteration.
    pub fn are_due(&self, iteration: usize, iters: usize) -> bool {
        iteration.is_multiple_of(self.every) || iteration == iters
    }

    /// What the adapter answers, by the honest protocol; none if Ctrl-C was pressed meanwhile.
    pub async fn ask(&self, engine: &Engine, adapter: &AnyAdapter) -> Result<Option<Answers>> {
        let adapter = engine.load_adapter("the adapter in training", adapter)?;
        let mut candidate = EngineCandidate::new("run", engine, Some(adapter), &session::clock);
        let config = EvalConfig { loss: false, ..EvalConfig::default() };
        let mut on_progress = |_: &engram::eval::Progress<'_>| match interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        match evaluate_candidate(&mut candidate, &self.examples, &config, &mut on_progress).await {
            Ok(report) => {
                Ok(Some(Answers { correct: report.overall.correct, n: report.overall.n }))
            }
            Err(engram::Error::Cancelled) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_after_so_many_that_were_not_the_best() {
        let over = |most: Option<u32>, losses: &[f64]| {
            let options = WatchOptions { early_stopping_patience: most, ..WatchOptions::default() };
            Patience::new(&options, losses.iter().copied()).is_over()
        };
        assert_eq!(over(Some(2), &[3.0, 2.0, 2.5]), None);
        assert_eq!(over(Some(2), &[3.0, 2.0, 2.5, 2.0]), Some(2));
        assert_eq!(over(Some(2), &[3.0, 2.0, 2.5, 1.9]), None);
        assert_eq!(over(Some(1), &[3.0, 3.0]), Some(1));
        assert_eq!(over(None, &[1.0, 2.0, 3.0]), None);
        assert_eq!(over(Some(1), &[]), None);
    }
}
