//! `engram eval`: candidates, compared on one test set.

pub mod folder;
mod perplexity;
pub mod questions;
mod summary;

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum, value_parser};
use engram::eval::report::{Environment, Training};
use engram::eval::{
    EngineCandidate, EvalConfig, Progress, Report, Shard, Subject, check_names, evaluate,
};
use engram::generate::Engine;

pub use summary::summary;

use crate::adapter::{self, Blend};
use crate::cli::Global;
use crate::dataset::{DataSpec, FeatureOptions};
use crate::staged::Staged;
use crate::terminal::Terminal;
use crate::{interrupt, session};
use perplexity::Texts;

/// Options of `engram eval`.
#[derive(Debug, Args)]
pub struct Options {
    /// Test set: files (.jsonl, .json, .csv, .parquet), a folder with test.jsonl or the like, or a
    /// data set of the hub, hf:ORG/NAME[@REVISION][:PART]; chats or completions
    #[arg(long, value_name = "DATA", num_args = 1.., value_delimiter = ',', required_unless_present = "perplexity")]
    data: Vec<DataSpec>,

    #[command(flatten)]
    features: FeatureOptions,

    /// How to ask, and what counts as right
    #[arg(long, value_enum, default_value_t = Protocol::Honest)]
    protocol: Protocol,

    /// A trained adapter (a folder or a GGUF LoRA file), compared with the model alone, or several
    /// added up, each times its weight: a:0.7,b:0.3; may be given several times
    #[arg(long, value_name = "PATH[:WEIGHT],...")]
    adapter_path: Vec<Blend>,

    /// Name of an adapter in the report, in their order; else that of its folder, of a blend a:0.7+b:0.3
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,

    /// Longest answer, tokens
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..))]
    max_new_tokens: u32,

    /// Ask every prompt this often; the report says whether the answers were the same
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    runs: u32,

    /// Take only the first examples of the test set
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Ask one of several equal parts of the test set, such as 2/8; engram merge joins the reports
    #[arg(long, value_name = "I/N", requires = "out", conflicts_with = "perplexity")]
    shard: Option<Shard>,

    /// Leave out the loss of the expected answers
    #[arg(long)]
    no_loss: bool,

    /// Loss and perplexity over a file: plain text, or the texts or answers of a data file
    #[arg(long, value_name = "FILE")]
    perplexity: Option<PathBuf>,

    /// Folder for the report: report.md, report.json, plots
    #[arg(long, value_name = "FOLDER", requires = "data")]
    out: Option<PathBuf>,
}

/// `--protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// The chat template; right is what equals the expected answer
    Honest,
    /// The bare prompt; right is what starts with the expected answer
    Original,
}

impl From<Protocol> for engram::eval::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Honest => Self::Honest,
            Protocol::Original => Self::Original,
        }
    }
}

pub const EXAMPLES: &str = "\
Examples:
  engram eval --data data/held-out --adapter-path adapter --out report
  engram eval --data test.jsonl --adapter-path a --adapter-path b --name short --name long
  engram eval --data data --adapter-path a --adapter-path b --adapter-path a:0.7,b:0.3
  engram eval --protocol original --data data/original --adapter-path adapter --limit 20
  engram eval --data data/held-out --shard 2/8 --out parts/2
  engram eval --perplexity book.txt";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    // Whatever is wrong with the arguments shows before the model is loaded.
    let named = names(&options.adapter_path, &options.name)?;
    let terminal = Terminal::new(global);
    let source = Some(&options.data).filter(|data| !data.is_empty()).map(|data| {
        questions::Source { data: data.clone(), features: options.features.features() }
    });
    let evaluation = source.map(|source| Evaluation {
        source,
        trained_on: None,
        out: options.out.as_deref(),
        limit: options.limit.map(|limit| limit as usize),
        shard: options.shard,
        training: None,
        config: EvalConfig {
            protocol: options.protocol.into(),
            max_new_tokens: options.max_new_tokens as usize,
            runs: options.runs as usize,
            loss: !options.no_loss,
        },
    });
    let prepared = evaluation.map(|evaluation| evaluation.prepare(terminal)).transpose()?;
    let texts = options.perplexity.as_deref();
    let texts = texts.map(|path| Texts::read(path, &options.features.features(), terminal));
    let texts = texts.transpose()?;
    let engine = session::load_engine(global)?;
    let mut candidates = candidates(&engine, &named)?;
    let _deferred = interrupt::defer();
    let mut out = std::io::stdout().lock();
    if let Some(prepared) = prepared {
        let folder = prepared.evaluation.out;
        let report = prepared.run(terminal, &engine, &global.model.name(), &mut candidates)?;
        write!(out, "{}", summary(&report))?;
        if let Some(folder) = folder {
            writeln!(out, "report: {}", folder.join("report.md").display())?;
        }
    }
    if let Some(texts) = texts {
        let form = engram::eval::Protocol::from(options.protocol).form();
        let mut losses = Vec::new();
        for (candidate, (name, _)) in candidates.iter_mut().zip(named) {
            let loss = pollster::block_on(texts.loss(candidate, form, terminal))?;
            losses.push((name, loss));
        }
        write!(out, "{}", summary::losses(&losses))?;
    }
    Ok(())
}

/// What to evaluate on, and where the report goes.
pub struct Evaluation<'a> {
    /// Where the questions come from.
    pub source: questions::Source,
    /// The adapters' training set, if it is not the one beside the test set.
    pub trained_on: Option<PathBuf>,
    /// The report's folder.
    pub out: Option<&'a Path>,
    /// Most examples.
    pub limit: Option<usize>,
    /// Which of the examples, if not all.
    pub shard: Option<Shard>,
    /// How the adapter was trained, for the report.
    pub training: Option<Training>,
    /// How to ask.
    pub config: EvalConfig,
}

/// An evaluation whose data is read and whose folder can be written.
pub struct Prepared<'a> {
    evaluation: Evaluation<'a>,
    questions: questions::Questions,
    staged: Option<Staged>,
}

impl<'a> Evaluation<'a> {
    /// Reads the data and begins the report's folder.
    pub fn prepare(self, terminal: Terminal) -> Result<Prepared<'a>> {
        let mut questions = self.source.read(self.limit, self.trained_on.as_deref(), terminal)?;
        if let Some(shard) = self.shard {
            let all = questions.examples.len();
            questions.examples = shard.of(questions.examples);
            questions.dataset.shard = Some(shard);
            ensure!(
                !questions.examples.is_empty(),
                "--shard {}/{}: the test set has {all} questions; make no more parts than that",
                shard.index,
                shard.of
            );
        }
        let staged = self.out.map(Staged::new).transpose()?;
        Ok(Prepared { evaluation: self, questions, staged })
    }
}

impl Prepared<'_> {
    /// Asks the candidates and writes the report. Ctrl-C leaves nothing, if it is deferred.
    pub fn run(
        self,
        terminal: Terminal,
        engine: &Engine,
        model: &str,
        candidates: &mut [EngineCandidate<'_>],
    ) -> Result<Report> {
        let Prepared { evaluation: Evaluation { config, training, .. }, questions, staged } = self;
        let place = engine.model().place();
        let environment = Environment::on(format!("{}, {} engine", place.device, place.engine));
        let subject = Subject { model: model.to_owned(), dataset: questions.dataset, environment };
        let phases = if config.loss { 2 } else { 1 };
        let answers = questions.examples.len() * config.runs;
        let of_one = answers + (phases - 1) * questions.examples.len();
        let mut meter = terminal.steps(of_one * candidates.len());
        let mut steps = 0;
        let mut on_progress = |progress: &Progress<'_>| {
            // Each phase reports every step once; the first also its beginning.
            steps += usize::from(progress.done > 0);
            meter.set(steps, format_args!("evaluating {}", progress.candidate));
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let report = evaluate(candidates, &questions.examples, &config, subject, &mut on_progress);
        let mut report = pollster::block_on(report)?;
        drop(meter);
        report.training = training;
        if let Some(staged) = staged {
            folder::write(&report, staged)?;
        }
        Ok(report)
    }
}

/// The model alone, which is no adapter, then every adapter, each with its name.
pub fn names(blends: &[Blend], names: &[String]) -> Result<Vec<(String, Blend)>> {
    ensure!(
        names.len() <= blends.len(),
        "{} names for {} adapters: give each --name its --adapter-path",
        names.len(),
        blends.len()
    );
    let mut named = vec![("base".to_owned(), Blend(Vec::new()))];
    for (i, blend) in blends.iter().enumerate() {
        let name = names.get(i).cloned().or_else(|| blend.name());
        let name = name.with_context(|| {
            let paths = blend.0.iter().map(|spec| spec.path.display().to_string());
            let paths = paths.collect::<Vec<_>>().join(",");
            format!("{paths}: a folder without a name of its own; add --name")
        })?;
        named.push((name, blend.clone()));
    }
    check_names(&named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())
        .context("--name")?;
    // Before the model is loaded.
    for spec in blends.iter().flat_map(|blend| &blend.0) {
        adapter::files(&spec.path)?;
    }
    Ok(named)
}

/// Loads the adapters.
pub fn candidates<'a>(
    engine: &'a Engine,
    named: &[(String, Blend)],
) -> Result<Vec<EngineCandidate<'a>>> {
    let candidate = |(name, blend): &(String, Blend)| {
        let adapter = adapter::load(engine, &blend.0)?;
        Ok(EngineCandidate::new(name, engine, adapter, &session::clock))
    };
    named.iter().map(candidate).collect()
}
