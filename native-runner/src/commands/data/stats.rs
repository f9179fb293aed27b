//! `engram data stats`: what is in a data set.

use std::io::Write;

use anyhow::{Result, ensure};
use clap::Args;
use engram::data::batch::{BatchConfig, BatchSet, Semantics};
use engram::data::file::RecordFile;
use engram::data::stats::{self, EpochStats, Overlap, Repeats, SetStats};
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

/// A set, counted.
struct Counted {
    set: Set,
    files: Vec<RecordFile>,
    stats: SetStats,
    /// Place and tokens of examples over the limit.
    over_long: Vec<(String, usize)>,
    /// Or why there are no batches.
    epoch: Result<EpochStats, String>,
}

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
    let counted = sets
        .into_iter()
        .map(|(set, files)| count(set, files, &encoder, options, limit, terminal))
        .collect::<Result<Vec<_>>>()?;

    let mut out = std::io::stdout().lock();
    if options.json {
        let report = report(&counted, &global.model.name(), options.batch_size, limit);
        return Ok(writeln!(out, "{report:#}")?);
    }
    for counted in &counted {
        print(&mut out, counted, options.batch_size, limit)?;
    }
    for (held, trained, leaks) in leaks(&counted) {
        let of = records(&held.files).len();
        let (held, trained) = (held.set.name(), trained.set.name());
        let shown = dataset::shown(leaks, &format!("in {trained}"));
        writeln!(out, "leaks: of {of} {held} prompts, {shown}")?;
    }
    if let Some((of, Overlap { same, varied })) = tested(&counted) {
        writeln!(
            out,
            "leaks: of {of} test prompts, {same} are in train or valid word for word, \
             {varied} more at the end of a longer prompt"
        )?;
    }
    Ok(())
}

fn count(
    set: Set,
    files: Vec<RecordFile>,
    encoder: &Encoder,
    options: &Options,
    limit: usize,
    terminal: Terminal,
) -> Result<Counted> {
    let loss_on = match (options.mask_prompt, options.assistant_only_loss) {
        (true, _) => LossOn::LastMessage,
        (_, true) => LossOn::Assistant,
        _ => LossOn::Everything,
    };
    let examples = dataset::tokenize(&files, encoder, loss_on, terminal)?;
    let places = files.iter().flat_map(|file| (0..file.records.len()).map(move |i| (file, i)));
    let over_long = places
        .zip(examples.iter().map(|example| example.ids.len()))
        .filter(|(_, length)| *length > limit)
        .map(|((file, i), length)| (file.place(i), length))
        .collect();
    let stats = stats::of(&records(&files), &examples, limit);
    // Other sets may be smaller than a batch, but nothing is trained on less.
    let batch_size = match set {
        Set::Train => options.batch_size,
        _ => options.batch_size.min(examples.len()),
    };
    let config =
        BatchConfig { semantics: Semantics::Engram, batch_size, max_seq_length: limit, seed: 0 };
    let epoch = BatchSet::new(examples, config).and_then(stats::epoch);
    let epoch = epoch.map_err(|error| error.to_string());
    Ok(Counted { set, files, stats, over_long, epoch })
}

/// Every pair of sets of which the one should not have the other's prompts.
fn leaks(sets: &[Counted]) -> Vec<(&Counted, &Counted, Repeats)> {
    let mut found = Vec::new();
    for (i, held) in sets.iter().enumerate() {
        for trained in &sets[..i] {
            let repeats = stats::leaks(&records(&held.files), &records(&trained.files));
            found.push((held, trained, repeats));
        }
    }
    found
}

/// How many test prompts there are, and how many of them a training has seen.
fn tested(sets: &[Counted]) -> Option<(usize, Overlap)> {
    let (test, trained): (Vec<_>, Vec<_>) = sets.iter().partition(|c| c.set == Set::Test);
    let test = records(&test.first()?.files);
    let trained: Vec<_> = trained.iter().flat_map(|counted| records(&counted.files)).collect();
    (!trained.is_empty()).then(|| (test.len(), stats::overlap(&test, &trained)))
}

fn print(out: &mut impl Write, counted: &Counted, batch_size: usize, limit: usize) -> Result<()> {
    let Counted { set, files, stats, over_long, epoch } = counted;
    let forms: Vec<&str> = stats.forms.keys().copied().collect();
    let duplicates = match stats.duplicates {
        Repeats { exact: 0, normalized: 0 } => "no duplicates".to_owned(),
        repeats => dataset::shown(repeats, "repeated"),
    };
    let plural = if stats.records == 1 { "" } else { "s" };
    writeln!(
        out,
        "{}: {} {} record{plural}, {duplicates}",
        set.name(),
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
    match epoch {
        Err(problem) => writeln!(out, "  no batches: {problem}")?,
        Ok(EpochStats { batches, tokens, most_tokens, padding }) => writeln!(
            out,
            "  an epoch: {batches} iterations at batch size {batch_size}, {most_tokens} tokens at \
             most; no padding, which would add {padding} to {tokens} tokens"
        )?,
    }
    if tokens.untrained > 0 {
        writeln!(out, "  {} left out, no loss within {limit} tokens", tokens.untrained)?;
    }
    if tokens.over_long > 0 {
        writeln!(out, "  {} over {limit} tokens, cut there:", tokens.over_long)?;
        for (place, length) in over_long.iter().take(LISTED) {
            writeln!(out, "    {place}: {length} tokens")?;
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

fn report(sets: &[Counted], model: &str, batch_size: usize, limit: usize) -> Value {
    let one = |counted: &Counted| {
        let Counted { set, files, stats, over_long, epoch } = counted;
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let over_long: Vec<Value> = over_long
            .iter()
            .map(|(place, tokens)| json!({ "place": place, "tokens": tokens }))
            .collect();
        let mut entry = json!(stats);
        entry["files"] = json!(names);
        entry["over_long"] = over_long.into();
        entry["epoch"] = json!(epoch.as_ref().ok());
        (set.name().to_owned(), entry)
    };
    let leaks: Vec<Value> = leaks(sets)
        .into_iter()
        .map(|(held, trained, Repeats { exact, normalized })| {
            json!({
                "of": held.set.name(), "in": trained.set.name(),
                "exact": exact, "normalized": normalized,
            })
        })
        .collect();
    json!({
        "model": model,
        "max_seq_length": limit,
        "batch_size": batch_size,
        "sets": sets.iter().map(one).collect::<serde_json::Map<_, _>>(),
        "leaks": leaks,
    })
}
