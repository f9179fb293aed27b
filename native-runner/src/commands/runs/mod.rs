//! `engram runs`: what runs there are, and what they came to.

mod compare;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::runs::{self, Run};
use crate::table::table;

/// Options of `engram runs`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Folders in which to look for runs [default: runs, sweeps and adapters]
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

/// What else to do with runs.
#[derive(Debug, Subcommand)]
enum Command {
    /// Show where the settings of runs differ, and their losses, side by side
    Compare(compare::Options),
}

pub const EXAMPLES: &str = "\
Examples:
  engram runs
  engram runs sweeps/first --json
  engram runs compare runs/a runs/b
  engram runs compare runs/*/ --plot losses.svg

A run that can't be read is named on stderr; compare, where it was asked for, stops at it.

Right answers are those of the reports (engram eval --out) in a run's folder or beside it, for the
candidate that has the folder's name.";

pub fn run(options: &Options) -> Result<()> {
    if let Some(Command::Compare(options)) = &options.command {
        return compare::run(options);
    }
    let mut folders = options.folders.clone();
    if folders.is_empty() {
        folders = ["runs", "sweeps", "adapters"].map(PathBuf::from).into();
        folders.retain(|folder| folder.is_dir());
    }
    let found = runs::find(&folders)?;
    if found.is_empty() {
        bail!("no runs found; engram train makes them, and engram runs FOLDER looks elsewhere");
    }
    let (mut runs, mut damaged) = (Vec::new(), 0);
    for folder in &found {
        match Run::read(folder) {
            Ok(run) => runs.push(run),
            Err(error) => {
                // One that can't be read is no reason not to list the others.
                let line = format!("{error:#}");
                let words = line.split_whitespace().collect::<Vec<_>>();
                eprintln!("damaged: {}", words.join(" "));
                damaged += 1;
            }
        }
    }
    if runs.is_empty() {
        bail!("none of {damaged} runs can be read");
    }
    let mut out = std::io::stdout().lock();
    if options.json {
        let all: Vec<Value> = runs.iter().map(as_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    let head = [
        "run",
        "started",
        "status",
        "model",
        "method",
        "iterations",
        "training",
        "validation",
        "right",
    ];
    let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
    write!(out, "{}", table(&head, &rows))?;
    Ok(())
}

/// What is not known.
const NONE: &str = "-";

fn row(run: &Run) -> Vec<String> {
    let last = run.record.as_ref().and_then(|record| record.sessions.last());
    let first = run.record.as_ref().and_then(|record| record.sessions.first());
    let setting = |key: &str| run.setting(key).unwrap_or_else(|| NONE.to_owned());
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let losses = |losses: Option<[f64; 3]>| {
        or_none(losses.map(|[first, best, last]| match last == best {
            true => format!("{first:.3} {last:.3}"),
            false => format!("{first:.3} {last:.3} (best {best:.3})"),
        }))
    };
    let model = setting("model");
    let model = model.rsplit('/').next().unwrap_or_default().to_owned();
    vec![
        run.folder.display().to_string(),
        or_none(first.map(|session| session.started.replace('T', " ").chars().take(16).collect())),
        or_none(last.map(|session| session.status.name().to_owned())),
        model,
        setting("fine_tune_type"),
        or_none(last.map(|session| format!("{} of {}", run.iterations(session), setting("iters")))),
        losses(run.losses(|point| point.train)),
        losses(run.losses(|point| point.validation)),
        or_none(right(run)),
    ]
}

/// Right answers, of one report or of several.
fn right(run: &Run) -> Option<String> {
    let all: Vec<String> =
        run.scores.iter().map(|score| format!("{} of {}", score.correct, score.n)).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn as_json(run: &Run) -> Value {
    let losses = |losses: Option<[f64; 3]>| {
        losses.map(|[first, best, last]| json!({"first": first, "best": best, "last": last}))
    };
    let scores: Vec<Value> = run
        .scores
        .iter()
        .map(|score| {
            json!({
                "report": score.report, "correct": score.correct, "examples": score.n,
            })
        })
        .collect();
    json!({
        "folder": run.folder,
        "config": run.config,
        "record": run.record,
        "train_loss": losses(run.losses(|point| point.train)),
        "val_loss": losses(run.losses(|point| point.validation)),
        "curve": run.curve,
        "seconds": run.seconds(),
        "tokens_per_second": run.cost.and_then(|cost| cost.tokens_per_second),
        "evaluations": scores,
    })
}
