//! `engram pipeline`: the whole experiment, from patterns to a verdict.

mod preset;
mod steps;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use engram::eval::{Protocol, Report};

use super::{demo, eval};
use crate::cli::Global;
use crate::source::ModelSpec;
use crate::terminal::Terminal;
use crate::{interrupt, session};
use preset::Preset;
use steps::Run;

/// Options of `engram pipeline`.
#[derive(Debug, Args)]
pub struct Options {
    /// Folder for everything: data, adapter, reports [default: runs/MODEL]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Use the data that is in the folder
    #[arg(long)]
    skip_data: bool,

    /// Use the adapter that is in the folder
    #[arg(long)]
    skip_train: bool,

    /// No evaluation, no report
    #[arg(long)]
    skip_eval: bool,

    /// No answers side by side at the end
    #[arg(long)]
    skip_demo: bool,

    /// Less of everything, to see it run; the default by our kernels on a software adapter
    #[arg(long, conflicts_with = "full")]
    quick: bool,

    /// The whole experiment, on a software adapter too
    #[arg(long)]
    full: bool,
}

pub const EXAMPLES: &str = "\
What is where in the folder:
  data/held-out    what is trained on, and the test set of the honest protocol
  data/original    the test set of the original protocol
  adapter          the trained adapter, its checkpoint, its losses in metrics.jsonl
  report-honest    chat template, exact answers, patterns that were held out
  report-original  bare prompts, as the original experiment asked

Examples:
  engram pipeline
  engram pipeline --quick --out runs/try
  engram pipeline --out runs/try --skip-data --skip-train --full";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let (terminal, began) = (Terminal::new(global), session::clock());
    let out = options.out.clone().unwrap_or_else(|| {
        let name = global.model.name().replace(['/', ':', '@'], "-");
        PathBuf::from("runs").join(name)
    });
    let run = Run::new(&out);
    // A step that is skipped must have been done before one that needs it is begun.
    let has_data = !options.skip_data || run.has_data();
    ensure!(
        has_data || (options.skip_train && options.skip_eval),
        "{}: no data in it; leave out --skip-data",
        out.display()
    );
    ensure!(
        !options.skip_train || run.has_adapter() || (options.skip_eval && options.skip_demo),
        "{}: no adapter in it; leave out --skip-train",
        out.display()
    );
    if !options.skip_data {
        run.make_data(terminal)?;
    }
    if options.skip_train && options.skip_eval && options.skip_demo {
        return Ok(());
    }
    let engine = session::load_engine(global)?;
    let preset = Preset::choose(options.quick, options.full, &engine.model().place());
    if preset != preset::FULL {
        let why = if options.quick { "quick" } else { "quick, for a software adapter" };
        terminal
            .note(format_args!("{why}: {}; --full runs the whole experiment", preset.describe()));
    }
    if !options.skip_train {
        run.train(global, &engine, &preset)?;
    }
    let named = eval::names(&[run.adapter.clone().into()], &[])?;
    let mut candidates = eval::candidates(&engine, &named)?;
    let mut reports = Vec::new();
    if !options.skip_eval {
        let _deferred = interrupt::defer();
        for protocol in [Protocol::Original, Protocol::Honest] {
            let prepared = run.evaluation(protocol, &preset)?.prepare(terminal)?;
            terminal.note(format_args!("evaluation: {}", steps::describe(protocol)));
            let model = global.model.name();
            reports.push(prepared.run(terminal, &engine, &model, &mut candidates)?);
        }
    }
    if !options.skip_demo {
        let prompts = demo::held_out(preset.demo_prompts)?;
        let mut show = demo::Show {
            candidates,
            form: engram::eval::PromptForm::Chat,
            max_new_tokens: preset.max_new_tokens,
        };
        prompts.iter().try_for_each(|example| show.example(example))?;
    }
    print_end(global, &run, &reports, preset)?;
    let seconds = session::clock() - began;
    terminal.note(format_args!("all of it took {:.1} minutes", seconds / 60.0));
    Ok(())
}

/// What came of it, and what to try next.
fn print_end(global: &Global, run: &Run, reports: &[Report], preset: Preset) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for report in reports {
        writeln!(out, "{}", steps::describe(report.protocol))?;
        writeln!(out, "{}", eval::summary(report))?;
    }
    for report in reports {
        writeln!(out, "report: {}", run.report(report.protocol).join("report.md").display())?;
    }
    let model = match &global.model {
        ModelSpec::Builtin => String::new(),
        other => format!(" --model {other}"),
    };
    let (adapter, folder) = (run.adapter.display(), run.folder.display());
    writeln!(out, "next:")?;
    writeln!(out, "  engram chat{model} --adapter-path {adapter}")?;
    writeln!(out, "  engram demo{model} --adapter-path {adapter}")?;
    if preset != preset::FULL {
        writeln!(out, "  engram pipeline{model} --full --out {folder}")?;
    }
    Ok(())
}
