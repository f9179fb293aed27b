//! `engram sweep`: a training run for every combination of some settings.

mod grid;
pub mod results;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use engram::eval::Shard;
use engram::generate::Engine;
use serde_json::{Map, Value};

use self::grid::{Combination, Grid};
use self::results::{Results, Row};
use super::train::{self, CHECKPOINT};
use crate::cli::{Cli, Command, Global};
use crate::interrupt::{self, Interrupted};
use crate::runs::record::{Record, Status};
use crate::runs::{RECORD, Run};
use crate::table::table;
use crate::terminal::Terminal;
use crate::{config, session};

/// Settings in which a run may differ from the one that is in its folder already: the same run
/// elsewhere, or for longer.
const FREE: [&str; 9] = [
    "engine",
    "adapter_path",
    "iters",
    "epochs",
    "tensorboard",
    "train",
    "test",
    "test_batches",
    "test_data",
];

/// Options of `engram sweep`.
#[derive(Debug, Args)]
pub struct Options {
    /// YAML with `parameters`, lists of values by the keys of a config file; and with `config`, the
    /// path of such a file, or `base`, settings in place
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Folder for the runs, each in one of its own [default: sweeps/NAME]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Run one of several equal parts, such as 2/8
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,

    /// List the runs, and run nothing
    #[arg(long)]
    dry_run: bool,

    /// The options of every command that were given, which go before the file.
    #[arg(skip)]
    pub given: Vec<OsString>,
}

pub const EXAMPLES: &str = "\
A file:
  config: run.yaml
  parameters:
    learning_rate: [1e-5, 1e-4]
    lora_parameters.rank: [4, 8]

Examples:
  engram sweep sweep.yaml --dry-run
  engram sweep sweep.yaml --out sweeps/first
  engram sweep sweep.yaml --out sweeps/first --shard 2/8
  engram runs sweeps/first

Ctrl-C writes the table of what is finished. Given again, it leaves out the runs that are done and goes on with one that was interrupted.";

/// A run of the sweep.
struct Planned {
    combination: Combination,
    global: Global,
    options: train::Options,
    state: State,
}

/// What is in a run's folder.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    New,
    /// A checkpoint to go on from.
    Begun,
    Done,
}

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let grid = Grid::read(&options.file)?;
    let stem = options.file.file_stem().context("the sweep's file has no name")?;
    let out = options.out.clone().unwrap_or_else(|| Path::new("sweeps").join(stem));
    let combinations = grid.combinations()?;
    let total = combinations.len();
    let keys = combinations[0].values.iter().map(|(key, _)| key.clone()).collect();
    let combinations = match options.shard {
        Some(shard) => shard.of(combinations),
        None => combinations,
    };
    // Whatever is wrong with one of them shows before the first is run.
    let mut runs = Vec::new();
    for combination in combinations {
        runs.push(plan(options, &out, &grid, combination)?);
    }
    if options.dry_run {
        return list(&runs);
    }
    let terminal = Terminal::new(global);
    let (mut failures, mut interrupted) = (Vec::new(), None);
    let mut loaded = None;
    // Ctrl-C ends a run, or what comes before one; then the table is written.
    let deferred = interrupt::defer();
    let count = runs.len();
    for (number, Planned { combination, global, options, state }) in (1..).zip(&mut runs) {
        let name = &combination.name;
        if interrupt::requested() {
            interrupted = Some(Interrupted.into());
            break;
        }
        terminal.note(format_args!("run {number} of {count}, {name}: {}", state.describe()));
        if *state == State::Done {
            continue;
        }
        if *state == State::Begun {
            // What the checkpoint came from is in it.
            (options.resume, options.init_adapter) = (true, None);
        }
        match train_one(global, options, &mut loaded) {
            Ok(()) => {}
            Err(error) if is_interruption(&error) => {
                // What is finished is a result already.
                interrupted = Some(error);
                break;
            }
            Err(error) => {
                // A learning rate that is too high is a result too: the others are still of use.
                terminal.note(format_args!("{name}: {error:#}"));
                failures.push(format!("{name}: {error:#}"));
            }
        }
    }
    drop(deferred);
    let mut rows = Vec::new();
    for Planned { combination, options, .. } in &runs {
        // One that failed before it began has no folder.
        if options.adapter_path.join(RECORD).is_file() {
            rows.push(Row::of(combination, &Run::read(&options.adapter_path)?));
        }
    }
    let results = Results { sweep: keys, total, runs: rows };
    results.write(&out, &Results::file(options.shard))?;
    write!(std::io::stdout(), "{}", results.table())?;
    if let Some(error) = interrupted {
        return Err(error);
    }
    if let Some(first) = failures.first() {
        bail!("{} of {count} runs failed; the first, {first}", failures.len());
    }
    Ok(())
}

/// A run, checked as far as that can be without the model.
fn plan(sweep: &Options, out: &Path, grid: &Grid, combination: Combination) -> Result<Planned> {
    let folder = out.join(&combination.name);
    let mut arguments: Vec<OsString> = ["engram", "train"].map(OsString::from).into();
    arguments.extend(sweep.given.iter().cloned());
    let mut to = OsString::from("--adapter-path=");
    to.push(&folder);
    arguments.push(to);
    let Cli { global, command } = config::with_layers(&arguments, &grid.layers(&combination))
        .with_context(|| combination.name.clone())?;
    let Command::Train(options) = command else { bail!("{}: no training", combination.name) };
    ensure!(
        options.metrics.is_none(),
        "{}: every run has metrics of its own, in its folder; leave metrics out",
        combination.name
    );
    ensure!(
        options.test.train != Some(false),
        "{}: a sweep trains; leave out train: false",
        combination.name
    );
    let state = State::of(&folder, &global, &options)?;
    Ok(Planned { combination, global, options: *options, state })
}

impl State {
    /// What is in `folder`, which may only be of the same run.
    fn of(folder: &Path, global: &Global, options: &train::Options) -> Result<Self> {
        let Some(record) = Record::read(folder)? else { return Ok(State::New) };
        let now = config::resolved(global, options, &options.settings.config()?)?;
        let there = Run::read(folder)?.config;
        // An initial adapter's shape becomes the run's.
        if options.init_adapter.is_none() {
            let shown = |map: &Map<String, Value>, key: &str| {
                map.get(key).map_or_else(|| "not set".to_owned(), Value::to_string)
            };
            let differing = now
                .keys()
                .chain(there.keys())
                .find(|key| !FREE.contains(&key.as_str()) && now.get(*key) != there.get(*key));
            if let Some(key) = differing {
                bail!(
                    "{}: holds another run, whose {key} is {}, here {}; remove it or name another \
                     --out",
                    folder.display(),
                    shown(&there, key),
                    shown(&now, key)
                );
            }
        }
        let is_over = record.sessions.last().is_some_and(|last| last.status == Status::Done);
        let is_as_long = match options.settings.epochs {
            // How many iterations those are is known when the data is.
            Some(epochs) => record.epochs == Some(epochs),
            None => now.get("iters") == there.get("iters"),
        };
        let is_tested = record.test.is_some() || !options.test.test;
        Ok(match is_over && is_as_long && is_tested {
            true => State::Done,
            false if folder.join(CHECKPOINT).is_file() => State::Begun,
            false => State::New,
        })
    }

    fn describe(self) -> &'static str {
        match self {
            State::New => "begins",
            State::Begun => "goes on",
            State::Done => "is done",
        }
    }
}

/// Trains on the engine that is loaded, if it is the one that the run asks for.
fn train_one(
    global: &Global,
    options: &train::Options,
    loaded: &mut Option<(String, Engine)>,
) -> Result<()> {
    let wanted = format!("{global:?}");
    let engine = match loaded.take().filter(|(is, _)| *is == wanted) {
        Some((_, engine)) => engine,
        None => session::load_engine(global)?,
    };
    let (_, engine) = loaded.insert((wanted, engine));
    train::train(global, engine, options)
}

fn is_interruption(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>() || matches!(error.downcast_ref(), Some(engram::Error::Cancelled))
}

/// The runs with what is in their folders.
fn list(runs: &[Planned]) -> Result<()> {
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let folder = run.options.adapter_path.display().to_string();
            vec![folder, run.state.describe().to_owned()]
        })
        .collect();
    write!(std::io::stdout(), "{}", table(&["run", ""], &rows))?;
    Ok(())
}
