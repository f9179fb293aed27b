//! `engram train`: a LoRA adapter from a folder of data.

mod folder;
mod follow;
mod metrics;
mod settings;
mod start;
mod test;
mod watch;

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use engram::formats::adapter::{AdapterFiles, PeftOptions, write_mlx, write_named, write_peft};
use engram::generate::{Engine, Model};
use engram::model::AnyAdapter;
use engram::train::{AdapterType, Event, Learner, Preference, TrainConfig, Trainer};
use serde_json::{Value, json};

use self::follow::Follow;
pub use self::settings::Settings;
pub use self::start::CHECKPOINT;
use self::start::Start;
pub use self::test::TestOptions;
pub use self::watch::WatchOptions;
use self::watch::{Patience, Questions};
use crate::adapter;
use crate::cli::Global;
use crate::config;
use crate::dataset::{DataOptions, Set};
use crate::interrupt;
use crate::memory;
use crate::runs::{self, Run as Finished};
use crate::session;
use crate::terminal::Terminal;

/// Options of `engram train`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Take settings from a YAML file, in MLX-LM's keys; options go before it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print all settings as such a file, and train nothing
    #[arg(long)]
    pub print_config: bool,

    #[command(flatten)]
    pub data: DataOptions,

    /// Folder for the adapter, its checkpoint, its settings, its metrics and, in best/, the adapter
    /// of the lowest validation loss
    #[arg(long, value_name = "FOLDER", default_value = "adapters")]
    pub adapter_path: PathBuf,

    /// Go on from the checkpoint in the adapter's folder
    #[arg(long, conflicts_with = "init_adapter")]
    pub resume: bool,

    /// Start from this adapter instead of a random one
    #[arg(long, value_name = "FOLDER")]
    pub init_adapter: Option<PathBuf>,

    /// Whose file layout [default: mlx; peft for a bottleneck, which MLX-LM does not have]
    #[arg(long, value_enum)]
    pub format: Option<Format>,

    /// Save a checkpoint every so many iterations [default: at reports, at most twice a minute]
    #[arg(long, value_name = "ITERATIONS")]
    pub save_every: Option<usize>,

    /// JSON lines with every report and validation [default: metrics.jsonl in the adapter's folder]
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    /// Write TensorBoard's event files too [default folder: the adapter's]
    #[arg(long, value_name = "FOLDER", num_args = 0..=1)]
    pub tensorboard: Option<Option<PathBuf>>,

    #[command(flatten)]
    pub watch: WatchOptions,

    #[command(flatten)]
    pub test: TestOptions,

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
  engram train --data data --adapter-path runs/first --tensorboard
  engram train --data data --print-config > run.yaml
  engram train --config run.yaml --adapter-path runs/second --learning-rate 1e-4
  engram train --data chats.csv --val-split 0.1 --epochs 3 --assistant-only-loss
  engram train --data data --early-stopping-patience 3 --eval-data data --eval-every 50
  engram train --data 'shards/*.parquet' --valid-data valid.jsonl
  engram train --data data --test --test-batches -1
  engram train --data data --adapter-path runs/first --train false --test
  engram train --data hf:openai/gsm8k:main --prompt-feature question --completion-feature answer

A record is a chat (messages, or ShareGPT's conversations), prompt and completion, Alpaca's
instruction, input and output, or a text.
Ctrl-C saves a checkpoint; --resume goes on from it with the same numbers.";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    options.test.check()?;
    if options.print_config {
        let config = options.settings.config()?;
        config.check()?;
        let file = config::resolved(global, options, &config)?;
        return say(config::to_yaml(&file)?.trim_end());
    }
    let engine = session::load_engine(global)?;
    train(global, &engine, options)
}

/// Trains on an engine that is loaded already; what the run came to stands in its metrics.
pub fn train(global: &Global, engine: &Engine, options: &Options) -> Result<()> {
    let terminal = Terminal::new(global);
    options.test.check()?;
    if options.test.train == Some(false) {
        return test::measure(engine, options, terminal);
    }
    memory::reset_peak(engine);
    let start = Start::new(engine, options, terminal)?;
    match engine.model() {
        Model::Gpu(gpu) => run_on(global, engine, options, start.on_gpu(gpu)?),
        #[cfg(feature = "burn")]
        Model::Burn(model) => {
            use engram::burn::{Bottleneck, DoraModule, LoraModule};
            engram::train::BurnLearner::<LoraModule>::check(&start.config)?;
            match start.config.adapter_type {
                AdapterType::Lora | AdapterType::Rslora => {
                    run_on(global, engine, options, start.on_burn::<LoraModule>(model)?)
                }
                AdapterType::Dora => {
                    run_on(global, engine, options, start.on_burn::<DoraModule>(model)?)
                }
                AdapterType::Bottleneck => {
                    run_on(global, engine, options, start.on_burn::<Bottleneck>(model)?)
                }
                AdapterType::Full => anyhow::bail!("full fine-tuning needs --engine wgpu"),
            }
        }
    }
}

/// Trains to the end, or to Ctrl-C.
fn run_on<L: Learner>(
    global: &Global,
    engine: &Engine,
    options: &Options,
    mut trainer: Trainer<L>,
) -> Result<()> {
    let terminal = Terminal::new(global);
    let folder = &options.adapter_path;
    let (config, parameters) = (trainer.config().clone(), trainer.learner().parameter_count());
    ensure!(
        options.watch.early_stopping_patience.is_none() || trainer.is_validated(),
        "--early-stopping-patience waits for the validation loss; name validation data"
    );
    let features = &options.data.features;
    let questions = Questions::read(&options.watch, features, terminal)?;
    let from = trainer.iteration();
    let mut record = folder::begin(global, options, engine, &config, parameters, from)?;
    let began = Instant::now();
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    folder::write(global, options, engine, &config, &record)?;
    let follow = Follow::begin(options, terminal, from, config.iters)?;
    let mut run = Run {
        options,
        patience: Patience::new(&options.watch, follow.validations(options)?),
        questions,
        model_name: global.model.to_string(),
        engine,
        terminal,
        follow,
        interval_time: Duration::ZERO,
        interval_tokens: 0,
        interval_iterations: 0,
        saved: Instant::now(),
        test_loss: None,
    };
    let dispatches = trainer.learner().dispatches_per_step();
    terminal.note(format_args!(
        "training {} parameters, iterations {} to {}{}",
        parameters,
        from + 1,
        config.iters,
        dispatches.map_or(String::new(), |count| format!(", {count} dispatches a step"))
    ));
    let mut result = pollster::block_on(run.finish(&mut trainer));
    if let Some(loss) = run.test_loss {
        match test::record(loss, options, Set::Train, terminal) {
            Ok(test) => record.test = Some(test),
            Err(error) => result = result.and(Err(error)),
        }
    }
    record.end(began, trainer.iteration(), &result);
    // What went wrong first is what is said.
    let recorded = record.write(folder).and_then(|()| runs::html::write(&Finished::read(folder)?));
    result.and(recorded)?;
    terminal.note(format_args!("saved the adapter to {}", folder.display()));
    Ok(())
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
    follow: Follow,
    patience: Patience,
    questions: Option<Questions>,
    interval_time: Duration,
    interval_tokens: usize,
    interval_iterations: usize,
    saved: Instant,
    test_loss: Option<f32>,
}

impl Run<'_> {
    async fn finish<L: Learner>(&mut self, trainer: &mut Trainer<L>) -> Result<()> {
        let _deferred = interrupt::defer();
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
                    self.follow.note(
                        format_args!(
                            "iteration {iteration}: validation loss {loss:.4}, {seconds:.1} s"
                        ),
                        &json!({"iteration": iteration, "val_loss": loss, "seconds": seconds}),
                    )?;
                    if best && iteration > 1 {
                        self.save_adapter(trainer, &self.options.adapter_path.join("best")).await?;
                    }
                    self.patience.note(loss.into());
                    if let Some(count) = self.patience.is_over() {
                        self.follow.end();
                        let done = trainer.iteration();
                        self.terminal.note(format_args!(
                            "stopped early after iteration {done}: {count} validations since the \
                             lowest loss, whose adapter is in best"
                        ));
                        break;
                    }
                }
                Event::Stepped { tokens, .. } => self.count(began, tokens),
                Event::Reported { iteration, tokens, loss, gradient_norm, trained_tokens } => {
                    self.count(began, tokens);
                    let rate =
                        self.report(iteration, loss, gradient_norm, trained_tokens, trainer)?;
                    what = format!("loss {loss:.3}, {rate:.0} tokens/s");
                }
            }
            self.follow.set(trainer.iteration(), &what);
            if !matches!(event, Event::Validated { .. }) {
                self.ask(trainer).await?;
            }
            if interrupt::requested() {
                self.save_checkpoint(trainer).await?;
                self.follow.end();
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
        self.follow.end();
        self.save_checkpoint(trainer).await?;
        self.save_adapter(trainer, &self.options.adapter_path).await?;
        self.test(trainer).await
    }

    /// The loss on the test set, if it is asked for.
    async fn test<L: Learner>(&mut self, trainer: &mut Trainer<L>) -> Result<()> {
        let (began, terminal) = (Instant::now(), self.terminal);
        let mut meter = None;
        let mut on_batch = |done: usize, total: usize| {
            meter.get_or_insert_with(|| terminal.steps(total)).set(done, "testing");
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let loss = match trainer.test(self.options.test.limit(), &mut on_batch).await {
            Err(engram::Error::Cancelled) => return Err(interrupt::Interrupted.into()),
            other => other?,
        };
        drop(meter);
        self.test_loss = loss;
        let Some(loss) = loss else { return Ok(()) };
        self.follow.note(test::line(loss), &test::entry(loss, trainer.iteration(), began))
    }

    /// Asks the questions, if they are due.
    async fn ask<L: Learner>(&mut self, trainer: &Trainer<L>) -> Result<()> {
        let (iteration, iters) = (trainer.iteration(), trainer.config().iters);
        let due = self.questions.as_ref().filter(|questions| questions.are_due(iteration, iters));
        let Some(questions) = due else { return Ok(()) };
        let began = Instant::now();
        let adapter = trainer.any_adapter().await?;
        let Some(answers) = questions.ask(self.engine, &adapter).await? else { return Ok(()) };
        let (correct, n) = (answers.correct, answers.n);
        let (accuracy, seconds) = (correct as f64 / n as f64, began.elapsed().as_secs_f64());
        self.follow.note(
            format_args!("iteration {iteration}: {correct} of {n} answers right, {seconds:.1} s"),
            &json!({
                "iteration": iteration,
                "eval_accuracy": accuracy,
                "eval_correct": correct,
                "eval_examples": n,
                "seconds": seconds,
            }),
        )
    }

    fn count(&mut self, began: Instant, tokens: usize) {
        self.interval_time += began.elapsed();
        self.interval_tokens += tokens;
        self.interval_iterations += 1;
    }

    fn report<L: Learner>(
        &mut self,
        iteration: usize,
        loss: f32,
        gradient_norm: f32,
        trained_tokens: usize,
        trainer: &Trainer<L>,
    ) -> Result<f64> {
        let seconds = std::mem::take(&mut self.interval_time).as_secs_f64();
        let tokens = std::mem::take(&mut self.interval_tokens);
        let iterations = std::mem::take(&mut self.interval_iterations);
        let (its, rate) = (iterations as f64 / seconds, tokens as f64 / seconds);
        let peak = memory::peak(self.engine);
        let mut shown = peak.map_or(String::new(), |peak| format!(", {peak}"));
        let pairs = trainer.preference().filter(|preference| preference.pairs > 0);
        let of_pairs = pairs.map(|Preference { pairs, correct, margin, .. }| {
            (correct as f64 / pairs as f64, margin / pairs as f64)
        });
        let mut line = json!({
            "iteration": iteration,
            "train_loss": loss,
            "gradient_norm": gradient_norm,
            "learning_rate": trainer.learning_rate(),
            "iterations_per_second": its,
            "tokens_per_second": rate,
            "trained_tokens": trained_tokens,
            "peak_memory_bytes": peak.map(|peak| peak.bytes),
        });
        if let Some((accuracy, margin)) = of_pairs {
            shown += &format!(", {:.0} % of pairs right, margin {margin:.3}", accuracy * 100.0);
            line["rewards/accuracies"] = json!(accuracy);
            line["rewards/margins"] = json!(margin);
        }
        self.follow.note(
            format_args!(
                "iteration {iteration}: training loss {loss:.4}, gradient norm \
                 {gradient_norm:.3}, {its:.3} it/s, {rate:.0} tokens/s{shown}"
            ),
            &line,
        )?;
        Ok(rate)
    }

    fn checkpoint_is_due<L: Learner>(&self, trainer: &Trainer<L>, event: &Event) -> bool {
        match self.options.save_every {
            Some(every) => every > 0 && trainer.iteration().is_multiple_of(every),
            None => {
                matches!(event, Event::Reported { .. })
                    && self.saved.elapsed() >= Duration::from_secs(30)
            }
        }
    }

    async fn save_checkpoint<L: Learner>(&mut self, trainer: &Trainer<L>) -> Result<()> {
        let bytes = trainer.save().await?.to_bytes()?;
        adapter::write_folder(&self.options.adapter_path, &[(CHECKPOINT, &bytes[..])])?;
        self.saved = Instant::now();
        Ok(())
    }

    async fn save_adapter<L: Learner>(&self, trainer: &Trainer<L>, folder: &Path) -> Result<()> {
        let adapter = trainer.any_adapter().await?;
        let files = self.files(&adapter, trainer.config())?;
        adapter::write_folder(folder, &files.iter().collect::<Vec<_>>())
    }

    fn files(&self, adapter: &AnyAdapter, config: &TrainConfig) -> Result<AdapterFiles> {
        let model = self.engine.config();
        let tensors = match adapter {
            AnyAdapter::Lora(tensors) => tensors,
            AnyAdapter::Named(named) => return Ok(write_named(named, &self.model_name)?),
        };
        // MLX's files have one rank and one scale.
        let own = if config.has_patterns() { Format::Peft } else { Format::Mlx };
        match self.options.format.unwrap_or(own) {
            Format::Mlx => {
                let mut arguments = match serde_json::to_value(config)? {
                    Value::Object(map) => map,
                    _ => Default::default(),
                };
                arguments.insert("model".to_owned(), json!(self.model_name));
                arguments.insert("data".to_owned(), json!(self.options.data.data));
                Ok(write_mlx(tensors, model, &arguments)?)
            }
            Format::Peft => {
                let base_model = &self.model_name;
                let use_rslora = config.adapter_type == AdapterType::Rslora;
                let options = PeftOptions { base_model, use_rslora, ..PeftOptions::default() };
                Ok(write_peft(tensors, model, &options)?)
            }
        }
    }
}
