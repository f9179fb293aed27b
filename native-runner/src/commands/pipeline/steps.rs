//! The steps of a run and where each leaves its files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use engram::data::patterns;
use engram::data::split::{self, SplitConfig, build};
use engram::eval::{EvalConfig, Protocol};
use engram::generate::Engine;
use engram::train::TrainConfig;

use super::preset::Preset;
use crate::cli::Global;
use crate::commands::eval::{Evaluation, questions};
use crate::commands::train;
use crate::dataset;
use crate::runs::curve;
use crate::terminal::Terminal;

/// The places of one run.
pub struct Run {
    /// Where everything is.
    pub folder: PathBuf,
    /// The trained adapter.
    pub adapter: PathBuf,
    /// Split so that the test set shares no pattern with the others: the adapter is trained on it,
    /// and both reports say how much of their test set it knows.
    held_out: PathBuf,
    /// Split as the original experiment did.
    original: PathBuf,
    reports: [PathBuf; 2],
}

impl Run {
    /// A run in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            adapter: folder.join("adapter"),
            held_out: folder.join("data").join("held-out"),
            original: folder.join("data").join("original"),
            reports: ["report-original", "report-honest"].map(|name| folder.join(name)),
        }
    }

    /// Whether both data sets are there.
    pub fn has_data(&self) -> bool {
        let has = |folder: &PathBuf| {
            dataset::Set::ALL
                .iter()
                .all(|set| folder.join(format!("{}.jsonl", set.name())).is_file())
        };
        has(&self.held_out) && has(&self.original)
    }

    /// Whether there is an adapter.
    pub fn has_adapter(&self) -> bool {
        self.adapter.join("adapter_config.json").is_file()
    }

    /// Splits our own patterns by both protocols, over what is there.
    pub fn make_data(&self, terminal: Terminal) -> Result<()> {
        let patterns = patterns::read(&patterns::BUNDLED)?;
        for (protocol, folder) in [
            (split::Protocol::HeldOut, &self.held_out),
            (split::Protocol::Original, &self.original),
        ] {
            let splits = build(&patterns, &SplitConfig { protocol, ..SplitConfig::default() })?;
            dataset::write(folder, &splits, true)?;
            terminal.note(format_args!(
                "{}: {} to train, {} to validate, {} to test",
                folder.display(),
                splits.train.len(),
                splits.valid.len(),
                splits.test.len()
            ));
        }
        Ok(())
    }

    /// Trains the adapter on the held-out split's training set.
    pub fn train(&self, global: &Global, engine: &Engine, preset: &Preset) -> Result<()> {
        // The default is for models of 30 blocks; a smaller one is adapted whole.
        let blocks = engine.config().num_hidden_layers as i64;
        let num_layers = (blocks < TrainConfig::default().num_layers).then_some(-1);
        let options = train::Options {
            config: None,
            print_config: false,
            data: dataset::DataOptions::folder(&self.held_out),
            adapter_path: self.adapter.clone(),
            resume: false,
            init_adapter: None,
            format: None,
            save_every: None,
            metrics: None,
            tensorboard: None,
            watch: train::WatchOptions::default(),
            test: train::TestOptions::default(),
            settings: train::Settings {
                num_layers,
                iters: Some(preset.iters),
                learning_rate: Some(preset.learning_rate),
                steps_per_report: Some(preset.steps_per_report),
                steps_per_eval: Some(preset.steps_per_eval),
                val_batches: Some(preset.val_batches),
                ..Default::default()
            },
        };
        train::train(global, engine, &options)
    }

    /// What to evaluate by `protocol`.
    pub fn evaluation(&self, protocol: Protocol, preset: &Preset) -> Result<Evaluation<'_>> {
        Ok(Evaluation {
            source: questions::Source::path(match protocol {
                Protocol::Original => &self.original,
                Protocol::Honest => &self.held_out,
            }),
            trained_on: Some(self.held_out.join("train.jsonl")),
            out: Some(self.report(protocol)),
            limit: preset.examples,
            shard: None,
            training: curve::read(&self.adapter)?,
            config: EvalConfig {
                protocol,
                max_new_tokens: preset.max_new_tokens,
                ..EvalConfig::default()
            },
        })
    }

    /// The folder of a protocol's report.
    pub fn report(&self, protocol: Protocol) -> &Path {
        match protocol {
            Protocol::Original => &self.reports[0],
            Protocol::Honest => &self.reports[1],
        }
    }
}

/// A protocol in a few words.
pub fn describe(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Original => "original protocol: bare prompts, the start of the answer counts",
        Protocol::Honest => "honest protocol: chat template, held-out patterns, exact answers",
    }
}
