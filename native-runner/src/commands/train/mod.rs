//! `engram train`: a LoRA adapter from a folder of data.

mod metrics;
mod settings;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use engram::data::batch::BatchSet;
use engram::data::{jsonl, tokens};
use engram::formats::adapter::{AdapterFiles, PeftOptions, write_mlx, write_peft};
use engram::generate::Engine;
use engram::model::{AdapterTensors, Target};
use engram::train::{Checkpoint, Event, TrainConfig, Trainer};
use serde_json::{Value, json};

use self::metrics::Metrics;
pub use self::settings::Settings;
use crate::adapter;
use crate::cli::Global;
use crate::interrupt;
use crate::session;
use crate::terminal::Terminal;

/// Options of `engram train`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Folder with train.jsonl and, if it is to be validated, valid.jsonl: chats, completions or
    /// texts, as MLX-LM takes them
    #[arg(long, value_name = "FOLDER")]
    pub data: PathBuf,

    /// Folder for the adapter, its checkpoint, its metrics and, in best/, the adapter of the lowest
    /// validation loss
    #[arg(long, value_name = "FOLDER", default_value = "adapters")]
    pub adapter_path: PathBuf,

    /// Go on from the checkpoint in the adapter's folder
    #[arg(long, conflicts_with = "init_adapter")]
    pub resume: bool,

    /// Start from this adapter instead of a random one
    #[arg(long, value_name = "FOLDER")]
    pub init_adapter: Option<PathBuf>,

    /// Whose file layout
    #[arg(long, value_enum, default_value_t = Format::Mlx)]
    pub format: Format,

    /// Save a checkpoint every so many iterations [default: at reports, at most twice a minute]
    #[arg(long, value_name = "ITERATIONS")]
    pub save_every: Option<usize>,

    /// JSON lines with every report and validation [default: metrics.jsonl in the adapter's folder]
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    #[command(flatten)]
    pub settings: Settings,
}

/// Adapter file layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// adapters.safetensors, for mlx-lm
    Mlx,
    /// adapter_model.safetensors, for peft
    Peft,
}

pub const EXAMPLES: &str = "\
Examples:
  engram train --data data --adapter-path runs/first
  engram train --data data --iters 500 --learning-rate 1e-4 --mask-prompt
  engram train --data data --adapter-path runs/first --resume
  engram train --data data --keys q_proj,v_proj --num-layers 8 --format peft

Ctrl-C saves a checkpoint; --resume goes on from it with the same numbers.";

/// The file a run goes on from.
const CHECKPOINT: &str = "checkpoint.safetensors";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let engine = session::load_engine(global)?;
    train(global, &engine, options)
}

/// Trains on an engine that is loaded already; what the run came to stands in its metrics.
pub fn train(global: &Global, engine: &Engine, options: &Options) -> Result<()> {
    let terminal = Terminal::new(global);
    let folder = &options.adapter_path;
    let context = engine.context();
    context.memory().reset_peak();
    let mut trainer = start(engine, options, terminal)?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let metrics = options.metrics.clone().unwrap_or_else(|| folder.join("metrics.jsonl"));
    let keep = options.resume.then_some(trainer.iteration());
    let config = trainer.config().clone();
    let mut run = Run {
        options,
        model_name: global.model.to_string(),
        engine,
        terminal,
        metrics: Metrics::open(&metrics, keep)?,
        interval_time: Duration::ZERO,
        interval_tokens: 0,
        interval_iterations: 0,
        saved: Instant::now(),
    };
    terminal.note(format_args!(
        "training {} parameters, iterations {} to {}, {} dispatches a step",
        trainer.adapter().count,
        trainer.iteration() + 1,
        config.iters,
        trainer.dispatches_per_step()
    ));
    pollster::block_on(run.finish(&mut trainer))?;
    terminal.note(format_args!("saved the adapter to {}", folder.display()));
    Ok(())
}

/// A trainer from scratch, from an adapter, or from a checkpoint.
fn start(engine: &Engine, options: &Options, terminal: Terminal) -> Result<Trainer> {
    let (context, model) = (engine.context(), engine.model());
    if options.resume {
        let path = options.adapter_path.join(CHECKPOINT);
        let name = path.display().to_string();
        let bytes = std::fs::read(&path).with_context(|| format!("{name}: nothing to resume"))?;
        let mut checkpoint = Checkpoint::from_bytes(&name, &bytes)?;
        checkpoint.config = options.settings.resumed(&checkpoint.config)?;
        let (iters, done) = (checkpoint.config.iters, checkpoint.iteration);
        ensure!(iters >= done, "--iters is {iters}, the run has done {done} already");
        let (train, valid) = data(engine, options, &checkpoint.config, terminal)?;
        return Ok(Trainer::resume(context, model, train, valid, &checkpoint)?);
    }
    let mut config = options.settings.config();
    config.check()?;
    let initial = match &options.init_adapter {
        Some(folder) => {
            let tensors = adapter::read_folder(folder)?;
            tensors.check(&folder.display().to_string(), &model.config)?;
            take_shape(&mut config, &tensors, model.config.num_hidden_layers, folder)?;
            tensors
        }
        None => config.initial_adapter(&model.config)?,
    };
    let (train, valid) = data(engine, options, &config, terminal)?;
    Ok(Trainer::new(context, model, &initial, train, valid, &config)?)
}

/// An initial adapter has a shape of its own, which becomes the run's.
fn take_shape(
    config: &mut TrainConfig,
    tensors: &AdapterTensors,
    blocks: usize,
    folder: &Path,
) -> Result<()> {
    let targets: BTreeSet<Target> = tensors.iter().map(|(_, target, _)| target).collect();
    let first = tensors.first_layer().unwrap_or(blocks);
    for layer in first..blocks {
        for &target in &targets {
            let same = tensors
                .get(layer, target)
                .is_some_and(|lora| lora.rank == config.rank && lora.scale == config.scale);
            ensure!(
                same,
                "{}: layer {layer}'s {} has not rank {} and scale {}, as every adapted layer must; \
                 give the adapter's --rank and --scale",
                folder.display(),
                target.path(),
                config.rank,
                config.scale
            );
        }
    }
    config.num_layers = (blocks - first) as i64;
    config.keys = targets.iter().map(|target| target.path().to_owned()).collect();
    Ok(())
}

/// The training set and, if there is one, the validation set.
fn data(
    engine: &Engine,
    options: &Options,
    config: &TrainConfig,
    terminal: Terminal,
) -> Result<(BatchSet, Option<BatchSet>)> {
    let set = |file: &str, may_be_missing: bool| -> Result<Option<BatchSet>> {
        let path = options.data.join(file);
        let name = path.display().to_string();
        if may_be_missing && !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).with_context(|| name.clone())?;
        let records = jsonl::parse(&name, &bytes)?;
        let examples = tokens::tokenize(&name, &records, engine, config.mask_prompt)?;
        let set = BatchSet::new(examples, config.batch_config()).with_context(|| name.clone())?;
        for (count, what) in [(set.truncated(), "cut to"), (set.left_out(), "left out, no loss in")]
        {
            if count > 0 {
                terminal.note(format_args!(
                    "{name}: {count} examples {what} {} tokens",
                    config.max_seq_length
                ));
            }
        }
        Ok(Some(set))
    };
    let train = set("train.jsonl", false)?.context("no training data")?;
    let valid = if config.val_batches == 0 { None } else { set("valid.jsonl", true)? };
    if valid.is_none() && config.val_batches != 0 {
        terminal.note("no valid.jsonl: the run is not validated");
    }
    Ok((train, valid))
}

/// A line of results on standard output.
fn say(line: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// What a running training keeps on the host.
struct Run<'a> {
    options: &'a Options,
    model_name: String,
    engine: &'a Engine,
    terminal: Terminal,
    metrics: Metrics,
    interval_time: Duration,
    interval_tokens: usize,
    interval_iterations: usize,
    saved: Instant,
}

impl Run<'_> {
    async fn finish(&mut self, trainer: &mut Trainer) -> Result<()> {
        let _deferred = interrupt::defer();
        let mut bar = self.terminal.steps(trainer.config().iters);
        let mut what = "training".to_owned();
        loop {
            let began = Instant::now();
            let event = match trainer.advance().await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error @ engram::Error::NotFinite { .. }) => {
                    if let Err(unsaved) = self.save_checkpoint(trainer).await {
                        self.terminal.note(format_args!("no checkpoint of it: {unsaved:#}"));
                    }
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            };
            match event {
                Event::Validated { iteration, loss, best } => {
                    let seconds = began.elapsed().as_secs_f64();
                    say(format_args!(
                        "iteration {iteration}: validation loss {loss:.4}, {seconds:.1} s"
                    ))?;
                    self.metrics.write(&json!({
                        "iteration": iteration, "val_loss": loss, "seconds": seconds,
                    }))?;
                    if best && iteration > 1 {
                        self.save_adapter(trainer, &self.options.adapter_path.join("best")).await?;
                    }
                }
                Event::Stepped { tokens, .. } => self.count(began, tokens),
                Event::Reported { iteration, tokens, loss, gradient_norm, trained_tokens } => {
                    self.count(began, tokens);
                    what = format!("loss {loss:.3}");
                    self.report(iteration, loss, gradient_norm, trained_tokens, trainer)?;
                }
            }
            bar.set(trainer.iteration(), &what);
            if interrupt::requested() {
                self.save_checkpoint(trainer).await?;
                drop(bar);
                let iteration = trainer.iteration();
                self.terminal.note(format_args!(
                    "stopped after iteration {iteration}; --resume goes on from there"
                ));
                return Err(interrupt::Interrupted.into());
            }
            if !matches!(event, Event::Validated { .. }) && self.checkpoint_is_due(trainer, &event)
            {
                self.save_checkpoint(trainer).await?;
            }
        }
        drop(bar);
        self.save_checkpoint(trainer).await?;
        self.save_adapter(trainer, &self.options.adapter_path).await
    }

    fn count(&mut self, began: Instant, tokens: usize) {
        self.interval_time += began.elapsed();
        self.interval_tokens += tokens;
        self.interval_iterations += 1;
    }

    fn report(
        &mut self,
        iteration: usize,
        loss: f32,
        gradient_norm: f32,
        trained_tokens: usize,
        trainer: &Trainer,
    ) -> Result<()> {
        let seconds = std::mem::take(&mut self.interval_time).as_secs_f64();
        let tokens = std::mem::take(&mut self.interval_tokens);
        let iterations = std::mem::take(&mut self.interval_iterations);
        let (its, rate) = (iterations as f64 / seconds, tokens as f64 / seconds);
        let peak = self.engine.context().memory().peak();
        say(format_args!(
            "iteration {iteration}: training loss {loss:.4}, gradient norm {gradient_norm:.3}, \
             {its:.3} it/s, {rate:.0} tokens/s, peak GPU memory {:.1} MB",
            peak as f64 / 1e6
        ))?;
        self.metrics.write(&json!({
            "iteration": iteration,
            "train_loss": loss,
            "gradient_norm": gradient_norm,
            "learning_rate": trainer.config().learning_rate,
            "iterations_per_second": its,
            "tokens_per_second": rate,
            "trained_tokens": trained_tokens,
            "peak_memory_bytes": peak,
        }))
    }

    fn checkpoint_is_due(&self, trainer: &Trainer, event: &Event) -> bool {
        match self.options.save_every {
            Some(every) => every > 0 && trainer.iteration().is_multiple_of(every),
            None => {
                matches!(event, Event::Reported { .. })
                    && self.saved.elapsed() >= Duration::from_secs(30)
            }
        }
    }

    async fn save_checkpoint(&mut self, trainer: &Trainer) -> Result<()> {
        let bytes = trainer.save().await?.to_bytes()?;
        adapter::write_folder(&self.options.adapter_path, &[(CHECKPOINT, &bytes[..])])?;
        self.saved = Instant::now();
        Ok(())
    }

    async fn save_adapter(&self, trainer: &Trainer, folder: &Path) -> Result<()> {
        let tensors = trainer.adapter_tensors().await?;
        let files = self.files(&tensors, trainer.config())?;
        adapter::write_folder(folder, &files.iter().collect::<Vec<_>>())
    }

    fn files(&self, tensors: &AdapterTensors, config: &TrainConfig) -> Result<AdapterFiles> {
        let model = &self.engine.model().config;
        match self.options.format {
            Format::Mlx => {
                let mut arguments = match serde_json::to_value(config)? {
                    Value::Object(map) => map,
                    _ => Default::default(),
                };
                arguments.insert("model".to_owned(), json!(self.model_name));
                arguments.insert("data".to_owned(), json!(self.options.data));
                Ok(write_mlx(tensors, model, &arguments)?)
            }
            Format::Peft => {
                let base_model = &self.model_name;
                let options = PeftOptions { base_model, ..PeftOptions::default() };
                Ok(write_peft(tensors, model, &options)?)
            }
        }
    }
}
