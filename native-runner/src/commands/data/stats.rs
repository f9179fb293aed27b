//! `engram data stats`: what is in a data set.

use std::io::Write;

use anyhow::{Result, ensure};
use clap::Args;
use engram::data::batch::{BatchConfig, Semantics};
use engram::data::file::RecordFile;
use engram::data::overview::{self, Counted, Leaks, OverLong, Overview, Tested, overview};
use engram::data::stats::{EpochStats, Overlap, Repeats};
use engram::data::tokens::LossOn;
use engram::generate::Encoder;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::dataset::{self, DataSpec, FeatureOptions, Set, records};
use crate::session;
use crate::source;
use crate::terminal::Terminal;

/// Options of `engram data stats`.
#[derive(Debug, Args)]
pub struct Options {
    /// Files, patterns, folders or data sets of the hub, as `engram train --data` takes them
    #[arg(value_name = "DATA", required = true, value_delimiter = ',')]
    data: Vec<DataSpec>,

    /// List longer examples, which training would cut off
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    max_seq_length: usize,

    /// Sequences in a batch
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch_size: usize,

    /// Count as trained what each record's last message has
    #[arg(long)]
    mask_prompt: bool,

    /// Count as trained what the assistant's messages have
    #[arg(long, conflicts_with = "mask_prompt")]
    assistant_only_loss: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    features: FeatureOptions,
}

pub const EXAMPLES: &str = "\
Tokens are those of --model and its chat template.

Examples:
  engram data stats my-data
  engram data stats train.jsonl --max-seq-length 512 --mask-prompt
  engram data stats hf:openai/gsm8k:main --prompt-feature question --completion-feature answer
  engram data stats 'shards/*.parquet' --batch-size 16 --json > stats.json";

/// Over-long examples that are listed for each set, unless as JSON.
const LISTED: usize = 10;

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let terminal = Terminal::new(global);
    let found = dataset::resolve(&options.data, Set::Train, terminal)?;
    let features = options.features.features();
    let mut sets = Vec::new();
    for set in Set::ALL {
        let files = dataset::read(found.of(set), &features, terminal)?;
        sets.extend(Some((set, files)).filter(|(_, files)| !files.is_empty()));
    }
    let checkpoint = session::open_checkpoint(&source::resolve(&global.model, terminal)?)?;
    let limit = options.max_seq_length.min(checkpoint.config.max_position_embeddings);
    ensure!(limit >= 2, "--max-seq-length is {limit}; it is at least 2");
    ensure!(options.batch_size > 0, "--batch-size is 0; it is at least 1");
    let mut encoder = Encoder::new(&checkpoint)?;
    encoder.set_time(session::now());
    let loss_on = match (options.mask_prompt, options.assistant_only_loss) {
        (true, _) => LossOn::LastMessage,
        (_, true) => LossOn::Assistant,
        _ => LossOn::Everything,
    };
    let to_count = sets.iter().map(|(set, files)| {
        let examples = dataset::tokenize(files, &encoder, loss_on, terminal)?;
        Ok(overview::Set { name: set.name(), records: records(files), examples })
    });
    let config = BatchConfig {
        semantics: Semantics::Engram,
        batch_size: options.batch_size,
        max_seq_length: limit,
        seed: 0,
    };
    let found = overview(to_count.collect::<Result<_>>()?, config);

    let mut out = std::io::stdout().lock();
    let all_files = || found.sets.iter().zip(sets.iter().map(|(_, files)| &files[..]));
    if options.json {
        let report = report(&found, all_files(), &global.model.name());
        return Ok(writeln!(out, "{report:#}")?);
    }
    for (counted, files) in all_files() {
        print(&mut out, counted, files, &found)?;
    }
    for Leaks { of, within, repeats } in &found.leaks {
        let held = found.sets.iter().find(|set| set.name == *of);
        let prompts = held.map_or(0, |set| set.stats.records);
        let shown = dataset::shown(*repeats, &format!("in {within}"));
        writeln!(out, "leaks: of {prompts} {of} prompts, {shown}")?;
    }
    if let Some(Tested { prompts, overlap: Overlap { same, varied } }) = found.tested {
        writeln!(
            out,
            "leaks: of {prompts} test prompts, {same} are in train or valid word for word, \
             {varied} more at the end of a longer prompt"
        )?;
    }
    Ok(())
}

/// Where an example of a set stands.
fn place(files: &[RecordFile], mut index: usize) -> String {
    for file in files {
        if index < file.records.len() {
            return file.place(index);
        }
        index -= file.records.len();
    }
    String::new()
}

fn print(
    out: &mut impl Write,
    counted: &Counted,
    files: &[RecordFile],
    Overview { batch_size, max_seq_length: limit, .. }: &Overview,
) -> Result<()> {
    let Counted { name, stats, over_long, epoch, problem } = counted;
    let forms: Vec<&str> = stats.forms.keys().copied().collect();
    let duplicates = match stats.duplicates {
        Repeats { exact: 0, normalized: 0 } => "no duplicates".to_owned(),
        repeats => dataset::shown(repeats, "repeated"),
    };
    let plural = if stats.records == 1 { "" } else { "s" };
    writeln!(
        out,
        "{name}: {} {} record{plural}, {duplicates}",
        stats.records,
        forms.join(" and "),
    )?;
    for file in files {
        writeln!(out, "  {}", file.name)?;
    }
    let tokens = &stats.tokens;
    writeln!(
        out,
        "  {} tokens, {} of them trained on: {} the shortest, {} the median, {:.1} the mean, \
         {} the 95th percentile, {} the longest",
        tokens.total,
        tokens.trained,
        tokens.min,
        tokens.median,
        tokens.mean,
        tokens.p95,
        tokens.max
    )?;
    let highest = tokens.histogram.iter().map(|bin| bin.examples).max().unwrap_or(1);
    for bin in &tokens.histogram {
        let bar = "#".repeat((bin.examples * 40).div_ceil(highest));
        writeln!(out, "  up to {:>6} tokens {:>7}  {bar}", bin.most, bin.examples)?;
    }
    if let Some(problem) = problem {
        writeln!(out, "  no batches: {problem}")?;
    }
    if let Some(EpochStats { batches, tokens, most_tokens, padding }) = epoch {
        writeln!(
            out,
            "  an epoch: {batches} iterations at batch size {batch_size}, {most_tokens} tokens at \
             most; no padding, which would add {padding} to {tokens} tokens"
        )?;
    }
    if tokens.untrained > 0 {
        writeln!(out, "  {} left out, no loss within {limit} tokens", tokens.untrained)?;
    }
    if tokens.over_long > 0 {
        writeln!(out, "  {} over {limit} tokens, cut there:", tokens.over_long)?;
        for OverLong { index, tokens } in over_long.iter().take(LISTED) {
            writeln!(out, "    {}: {tokens} tokens", place(files, *index))?;
        }
        if over_long.len() > LISTED {
            writeln!(out, "    and {} more; --json lists them all", over_long.len() - LISTED)?;
        }
    }
    let width = stats.categories.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for (category, count) in &stats.categories {
        writeln!(out, "  {category:<width$}  {count:>5}")?;
    }
    Ok(())
}

/// The overview, with the names of what is in it.
fn report<'a>(
    found: &Overview,
    sets: impl Iterator<Item = (&'a Counted, &'a [RecordFile])>,
    model: &str,
) -> Value {
    let mut report = json!(found);
    report["model"] = model.into();
    for (counted, files) in sets {
        let entry = &mut report["sets"][counted.name];
        entry["files"] = files.iter().map(|file| file.name.clone()).collect();
        for (shown, over_long) in
            entry["over_long"].as_array_mut().into_iter().flatten().zip(&counted.over_long)
        {
            shown["place"] = place(files, over_long.index).into();
        }
    }
    report
}
