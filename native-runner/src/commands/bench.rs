//! `engram bench`: how fast this machine is.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum, value_parser};
use engram::data::batch::BatchSet;
use engram::data::split::{Protocol, SplitConfig, build};
use engram::data::{patterns, tokens};
use engram::generate::{Engine, Model};
use engram::train::{Event, GpuLearner, Learner, TrainConfig, TrainData, Trainer};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::staged::Staged;
use crate::{interrupt, memory, session};

/// Options of `engram bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// What to measure [default: all]
    #[arg(value_enum)]
    what: Vec<What>,

    /// Take each figure this often; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    runs: u32,

    /// Write every single figure to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Seconds until the weights are on the device
    Load,
    /// Prompts of 128 and 512 tokens
    Prefill,
    /// 64 tokens after contexts of 128 and 1024
    Generate,
    /// Training steps of the original experiment: 4 chats, rank 8, 16 blocks
    Train,
}

const ALL: [What; 4] = [What::Load, What::Prefill, What::Generate, What::Train];

pub const EXAMPLES: &str = "\
Each figure is taken once before it counts, so that what is done once, such as compiling shaders, is
not in it. Machines that do other work too give other figures: compare what ran in turns.

Examples:
  engram bench
  engram bench generate prefill --runs 5 --json bench.json
  engram bench train --engine burn";

/// One figure of one run each.
struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Figure {
    /// Takes it once for nothing and `runs` times to count.
    fn take(
        name: impl Into<String>,
        unit: &'static str,
        runs: u32,
        mut once: impl FnMut() -> Result<f64>,
    ) -> Result<Self> {
        let name = name.into();
        let mut values = Vec::new();
        for run in 0..=runs {
            if interrupt::requested() {
                return Err(interrupt::Interrupted.into());
            }
            let value = once()?;
            if run > 0 {
                values.push(value);
            }
        }
        Ok(Self { name, unit, values })
    }

    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let (below, above) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        (below + above) / 2.0
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "unit": self.unit, "median": self.median(), "runs": self.values })
    }
}

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let report = options.json.as_deref().map(Report::begin).transpose()?;
    let wanted = if options.what.is_empty() { &ALL[..] } else { &options.what };
    let _deferred = interrupt::defer();
    let engine = session::load_engine(global)?;
    let place = engine.model().place();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} on {}, {} engine", global.model.name(), place.device, place.engine)?;
    let mut figures = Vec::new();
    for what in ALL.into_iter().filter(|what| wanted.contains(what)) {
        let found = match what {
            What::Load => load(global, options.runs)?,
            What::Prefill => prefill(&engine, options.runs)?,
            What::Generate => generate(&engine, options.runs)?,
            What::Train => train(&engine, options.runs)?,
        };
        for figure in found {
            let (low, high) = figure
                .values
                .iter()
                .fold((f64::MAX, 0.0_f64), |(low, high), &v| (low.min(v), high.max(v)));
            writeln!(
                out,
                "{:<36} {:>10.2} {:<9} {low:.2} to {high:.2}",
                figure.name,
                figure.median(),
                figure.unit
            )?;
            figures.push(figure);
        }
    }
    let peak = memory::peak(&engine);
    if let Some(peak) = peak {
        writeln!(out, "{peak}")?;
    }
    if let Some(report) = report {
        report.write(&json!({
            "model": global.model.name(),
            "engine": place.engine,
            "device": place.device,
            "peak_memory_bytes": peak.map(|peak| peak.bytes),
            "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
        }))?;
    }
    Ok(())
}

/// The file of `--json`, whose folder can be written.
struct Report {
    staged: Staged,
    name: String,
}

impl Report {
    fn begin(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{}: no file; name one for the figures", path.display())
        };
        Ok(Self { staged: Staged::new(folder)?, name: name.to_string_lossy().into_owned() })
    }

    fn write(mut self, report: &Value) -> Result<()> {
        self.staged.write(self.name, format!("{report:#}\n"))?;
        self.staged.publish()
    }
}

/// Some tokens of the vocabulary, no two prompts beginning alike.
fn prompt(engine: &Engine, length: usize, salt: usize) -> Result<Vec<u32>> {
    let (vocab, limit) = (engine.config().vocab_size, engine.config().max_position_embeddings);
    ensure!(
        length < limit,
        "the model's context of {limit} tokens is too short to measure {length}"
    );
    Ok((0..length).map(|i| ((i * 7919 + salt * 104_729 + 11) % vocab) as u32).collect())
}

fn load(global: &Global, runs: u32) -> Result<Vec<Figure>> {
    let quiet = Global { quiet: true, ..global.clone() };
    let once = || {
        let began = session::clock();
        session::load_engine(&quiet)?;
        Ok(session::clock() - began)
    };
    Ok(vec![Figure::take("load", "s", runs, once)?])
}

fn prefill(engine: &Engine, runs: u32) -> Result<Vec<Figure>> {
    let mut decoder = engine.decoder(None)?;
    let mut figures = Vec::new();
    for length in [128, 512] {
        let mut salt = 0;
        figures.push(Figure::take(format!("prefill, {length} tokens"), "tokens/s", runs, || {
            salt += 1;
            let ids = prompt(engine, length, salt)?;
            decoder.truncate(0);
            let began = session::clock();
            decoder.prefill(&ids)?;
            pollster::block_on(decoder.pick())?;
            Ok(length as f64 / (session::clock() - began))
        })?);
    }
    Ok(figures)
}

fn generate(engine: &Engine, runs: u32) -> Result<Vec<Figure>> {
    const TOKENS: usize = 64;
    /// Of one submit.
    const TOGETHER: usize = 8;
    let mut decoder = engine.decoder(None)?;
    let mut figures = Vec::new();
    for length in [128, 1024] {
        let ids = prompt(engine, length, 0)?;
        decoder.prefill(&ids)?;
        let name = format!("decode {TOKENS} tokens after {length}");
        figures.push(Figure::take(name, "tokens/s", runs, || {
            decoder.truncate(length);
            // What is next after the prompt.
            decoder.prefill(&ids)?;
            pollster::block_on(decoder.pick())?;
            let began = session::clock();
            for _ in 0..TOKENS / TOGETHER {
                pollster::block_on(decoder.advance_greedy(TOGETHER))?;
            }
            Ok(TOKENS as f64 / (session::clock() - began))
        })?);
    }
    Ok(figures)
}

fn train(engine: &Engine, runs: u32) -> Result<Vec<Figure>> {
    let iters = runs as usize + 1;
    let blocks = engine.config().num_hidden_layers as i64;
    let config = TrainConfig {
        iters,
        num_layers: TrainConfig::default().num_layers.min(blocks),
        steps_per_report: 1,
        val_batches: 0,
        ..TrainConfig::default()
    };
    let split = SplitConfig { protocol: Protocol::HeldOut, ..SplitConfig::default() };
    let records = build(&patterns::read(&patterns::BUNDLED)?, &split)?.train;
    let examples = tokens::tokenize("train", &records, engine, false)?;
    let data =
        TrainData::new(BatchSet::new(examples, config.batch_config())?, None, engine.config())?;
    match engine.model() {
        Model::Gpu(gpu) => {
            let initial = config.initial_adapter(engine.config())?;
            let room = data.room();
            let learner = GpuLearner::new(&gpu.context, &gpu.llama, &initial, room, &config)?;
            steps(Trainer::with(learner, data, &config)?, runs)
        }
        #[cfg(feature = "burn")]
        Model::Burn(model) => {
            use engram::burn::{LoraConfig, LoraModule, fresh};
            use engram::train::BurnLearner;
            let kind = LoraConfig::from(&config);
            let (layers, targets) = (config.layers(engine.config())?, config.targets()?);
            let adapter = fresh::<LoraModule>(model, layers, &targets, &kind, config.seed)?;
            let learner = BurnLearner::new(model, adapter, kind, data.room(), &config);
            steps(Trainer::with(learner, data, &config)?, runs)
        }
    }
}

fn steps<L: Learner>(mut trainer: Trainer<L>, runs: u32) -> Result<Vec<Figure>> {
    let mut rates = Vec::new();
    let step = Figure::take("training step, 4 chats", "s", runs, || {
        let began = session::clock();
        let event = pollster::block_on(trainer.advance())?;
        let seconds = session::clock() - began;
        if let Some(Event::Reported { tokens, .. }) = event {
            rates.push(tokens as f64 / seconds);
        }
        Ok(seconds)
    })?;
    let values = rates.split_off(1.min(rates.len()));
    let rate = Figure { name: "training, 4 chats".into(), unit: "tokens/s", values };
    Ok(vec![step, rate])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_does_not_count_and_the_median_does() {
        let mut times = [9.0, 1.0, 5.0, 2.0, 4.0].into_iter();
        let figure = Figure::take("f", "s", 4, || Ok(times.next().unwrap())).unwrap();
        assert_eq!(figure.values, [1.0, 5.0, 2.0, 4.0]);
        assert_eq!(figure.median(), 3.0);
        let json = figure.json();
        assert_eq!((&json["name"], &json["median"]), (&json!("f"), &json!(3.0)));
    }
}
