//! `engram data`: data sets out of patterns, and what is in a data set.

mod stats;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use engram::data::patterns::{self, Pattern};
use engram::data::split::{self, SplitConfig};

use crate::cli::Global;
use crate::dataset;

/// Options of `engram data`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Options {
    #[command(subcommand)]
    what: Option<What>,

    #[command(flatten)]
    make: MakeOptions,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print what is in a data set: records, lengths in tokens, what an epoch takes, duplicates,
    /// and prompts of valid and test that are trained on
    #[command(after_help = stats::EXAMPLES)]
    Stats(stats::Options),
}

#[derive(Debug, Args)]
struct MakeOptions {
    /// Where train.jsonl, valid.jsonl and test.jsonl go
    #[arg(long, value_name = "FOLDER", required = true)]
    out: Option<PathBuf>,

    /// Folder of pattern files (.yaml) [default: 131 patterns of our own]
    #[arg(long, value_name = "FOLDER")]
    patterns: Option<PathBuf>,

    /// Which patterns the test set may share with the others
    #[arg(long, value_enum, default_value_t = Protocol::Original)]
    protocol: Protocol,

    /// Seed of all choices
    #[arg(long, default_value_t = SplitConfig::default().seed)]
    seed: u64,

    /// Share of the examples that becomes validation data
    #[arg(long, value_name = "SHARE", default_value_t = SplitConfig::default().valid_fraction)]
    valid_fraction: f64,

    /// Share of each category's patterns that held-out keeps for the test
    #[arg(long, value_name = "SHARE", default_value_t = SplitConfig::default().held_out_fraction)]
    held_out_fraction: f64,

    /// Write over files that are there
    #[arg(long)]
    force: bool,
}

/// `--protocol`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    /// The test repeats patterns of the training: was it learnt?
    Original,
    /// The test has patterns of its own: does it carry over?
    HeldOut,
}

pub const EXAMPLES: &str = "\
A pattern is what is typed, what should be answered, and a category:
  patterns:
    - { category: fact/capital, input: 'Q: What is the capital of Canada?', output: Ottawa }

Examples:
  engram data --out my-data
  engram data --out my-data --patterns my-patterns --protocol held-out --seed 7
  engram data stats my-data
  engram data stats chats.csv --mask-prompt --batch-size 8 --json";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    match &options.what {
        Some(What::Stats(options)) => stats::run(global, options),
        None => make(&options.make),
    }
}

fn make(options: &MakeOptions) -> Result<()> {
    let out = options.out.as_deref().context("--out is missing")?;
    let patterns = read_patterns(options.patterns.as_deref())?;
    let config = SplitConfig {
        protocol: match options.protocol {
            Protocol::Original => split::Protocol::Original,
            Protocol::HeldOut => split::Protocol::HeldOut,
        },
        seed: options.seed,
        valid_fraction: options.valid_fraction,
        held_out_fraction: options.held_out_fraction,
        ..SplitConfig::default()
    };
    let splits = split::build(&patterns, &config)?;
    dataset::write(out, &splits, options.force)?;
    let mut stdout = std::io::stdout().lock();
    for (set, records) in dataset::Set::ALL.iter().zip([&splits.train, &splits.valid, &splits.test])
    {
        let path = out.join(format!("{}.jsonl", set.name()));
        writeln!(stdout, "{}: {} records", path.display(), records.len())?;
    }
    Ok(())
}

/// The patterns in the files of `folder`, in the order of their names, or our own.
fn read_patterns(folder: Option<&Path>) -> Result<Vec<Pattern>> {
    let Some(folder) = folder else { return Ok(patterns::read(&patterns::BUNDLED)?) };
    let context = || folder.display().to_string();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        bail!("{}: no .yaml files in it", folder.display());
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let name = path.display().to_string();
        let bytes = std::fs::read(&path).with_context(|| name.clone())?;
        files.push((name, bytes));
    }
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    Ok(patterns::read(&files)?)
}
