//! `engram bench`: how fast this machine is.

mod report;

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum, value_parser};
use engram::bench::{Bench, Figure};
use engram::generate::Engine;

use self::report::Report;
use crate::cli::{EngineChoice, Global, Quantize};
use crate::terminal::Terminal;
use crate::{interrupt, memory, session};

/// Options of `engram bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// What to measure [default: load, first, prefill, generate, host, train, evaluate]
    #[arg(value_enum)]
    what: Vec<What>,

    /// Take each figure this often; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    runs: u32,

    /// Measure decoding with the weights in Q8_0 and f16 too
    #[arg(long)]
    formats: bool,

    /// Write every single figure to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Seconds until the weights are on the device
    Load,
    /// Seconds to the first token by a decoder that is made for it
    First,
    /// Prompts of 128 and 512 tokens
    Prefill,
    /// 64 tokens after contexts of 128 and 1024
    Generate,
    /// What a decoded token costs the host: dispatches, bind groups, buffers, submits, encoding
    Host,
    /// Training steps of the original experiment (4 chats, rank 8, 16 blocks) and of 4 × 512 tokens
    Train,
    /// Questions of an evaluation
    Evaluate,
    /// inferena's protocol: ids 0 to 127 in f32, forward pass, one token, gradients of all weights
    Inferena,
    /// GPU time of each kernel: a prompt, a token, a training step
    Kernels,
    /// Decoding after 128 to 8192 tokens, training on 64 to 2048 tokens and 1 to 16 texts
    Scaling,
}

const DEFAULT: [What; 7] = [
    What::Load,
    What::First,
    What::Prefill,
    What::Generate,
    What::Host,
    What::Train,
    What::Evaluate,
];

pub const EXAMPLES: &str = "\
Each figure is taken once before it counts, so that what is done once, such as compiling shaders, is
not in it. Machines that do other work too give other figures: compare what ran in turns.

Examples:
  engram bench
  engram bench generate prefill --runs 5 --formats --json bench.json
  engram bench inferena --quantize f32
  engram bench kernels --engine wgpu
  engram bench train --engine burn";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let mut report = Report::begin(options.json.as_deref())?;
    let wanted = if options.what.is_empty() { &DEFAULT[..] } else { &options.what };
    let _deferred = interrupt::defer();
    let needs = |what| wanted.contains(&what);
    let proceed = teller(global);

    if wanted.iter().any(|&what| what != What::Kernels) {
        let engine = session::load_engine(global)?;
        report.subject(global, &engine)?;
        if needs(What::Load) {
            report.figures(vec![load(global, options.runs)?])?;
        }
        measure(&bench(&engine, options.runs, &proceed), wanted, &mut report)?;
        if let Some(peak) = memory::peak(&engine) {
            report.peak(peak)?;
        }
    }
    if options.formats {
        for format in [Quantize::Q8_0, Quantize::F16] {
            let quantize = Some(format);
            let other =
                Global { quantize, engine: EngineChoice::Wgpu, quiet: true, ..global.clone() };
            let engine = session::load_engine(&other)?;
            report.format(format);
            measure(
                &bench(&engine, options.runs, &proceed),
                &[What::Prefill, What::Generate],
                &mut report,
            )?;
            if let Some(peak) = memory::peak(&engine) {
                report.peak(peak)?;
            }
        }
    }
    if needs(What::Kernels) {
        let engine = session::load_engine_to_profile(global)?;
        report.subject(global, &engine)?;
        report.kernels(pollster::block_on(bench(&engine, options.runs, &proceed).kernels())?)?;
    }
    report.write()
}

fn bench<'a>(
    engine: &'a Engine,
    runs: u32,
    proceed: &'a dyn Fn(&str) -> engram::Result<()>,
) -> Bench<'a> {
    Bench { engine, runs, clock: &session::clock, proceed }
}

/// Tells what is measured when that changes.
fn teller(global: &Global) -> impl Fn(&str) -> engram::Result<()> {
    let (terminal, last) = (Terminal::new(global), RefCell::new(String::new()));
    move |name| {
        if interrupt::requested() {
            return Err(engram::Error::Cancelled);
        }
        if last.replace(name.to_owned()) != name {
            terminal.note(format_args!("measuring: {name}"));
        }
        Ok(())
    }
}

fn measure(bench: &Bench<'_>, wanted: &[What], report: &mut Report) -> Result<()> {
    for &what in wanted {
        let figures = pollster::block_on(async {
            match what {
                What::First => bench.first_token().await,
                What::Prefill => bench.prefill(&[128, 512]).await,
                What::Generate => bench.decode(64, &[128, 1024]).await,
                What::Host => bench.host().await,
                What::Train => {
                    let mut figures = bench.train().await?;
                    // Ten times the tokens; a software adapter takes minutes.
                    let once = Bench { runs: 1, ..*bench };
                    figures.extend(once.train_on(4, 512).await?);
                    Ok(figures)
                }
                What::Evaluate => bench.evaluation().await,
                What::Inferena => bench.inferena().await,
                What::Scaling => bench.scaling().await,
                // Of several engines.
                What::Load | What::Kernels => Ok(Vec::new()),
            }
        })?;
        report.figures(figures)?;
    }
    Ok(())
}

fn load(global: &Global, runs: u32) -> Result<Figure> {
    let quiet = Global { quiet: true, ..global.clone() };
    let mut values = Vec::new();
    for _ in 0..runs {
        let began = session::clock();
        session::load_engine(&quiet)?;
        values.push(session::clock() - began);
    }
    Ok(Figure { name: "load".into(), unit: "s", values })
}
