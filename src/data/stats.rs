//! What is in a data set: sizes, lengths, records that repeat, and prompts that training has seen.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Serialize;

use super::batch::BatchSet;
use super::record::{Body, Message, Record};
use super::source::BatchSource;
use super::tokens::Example;
use crate::Result;

/// One set of a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetStats {
    /// Its records.
    pub records: usize,
    /// Records of each form: `chat`, `completions`, `text`.
    pub forms: BTreeMap<&'static str, usize>,
    /// Records of each category; those without one are not in it.
    pub categories: BTreeMap<String, usize>,
    /// Records that stand in the set before (categories aside).
    pub duplicates: Repeats,
    /// Lengths of the records in tokens.
    pub tokens: TokenStats,
}

/// Lengths of examples in tokens, all 0 if there are none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TokenStats {
    /// All together.
    pub total: usize,
    /// Those that carry loss, once examples are cut to the limit.
    pub trained: usize,
    /// The shortest.
    pub min: usize,
    /// Half are not longer (of an even count, the lower of the two in the middle).
    pub median: usize,
    /// On average.
    pub mean: f64,
    /// 95 of 100 are not longer.
    pub p95: usize,
    /// The longest.
    pub max: usize,
    /// Examples of up to 16, 32, 64, … tokens, each power with those above the one before.
    pub histogram: Vec<Bin>,
    /// Examples longer than the limit, which training cuts off.
    pub over_long: usize,
    /// Examples without a token that carries loss within the limit, which training leaves out.
    pub untrained: usize,
}

/// A bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// Most tokens of its examples.
    pub most: usize,
    /// How many.
    pub examples: usize,
}

/// Records that repeat others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Repeats {
    /// Word for word.
    pub exact: usize,
    /// Only but for white space and the case of letters.
    pub normalized: usize,
}

/// Prompts of one set that occur in another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// Word for word.
    pub same: usize,
    /// Only as the end of a longer prompt, as [`super::augment`] makes them.
    pub varied: usize,
}

/// Counts over `records` and what [`super::tokens::tokenize`] made of them; an example of more than
/// `limit` tokens is over-long.
pub fn of(records: &[&Record], examples: &[Example], limit: usize) -> SetStats {
    let (mut forms, mut categories) = (BTreeMap::new(), BTreeMap::new());
    for record in records {
        *forms.entry(record.body.form()).or_default() += 1;
        if let Some(category) = &record.category {
            *categories.entry(category.clone()).or_default() += 1;
        }
    }
    let duplicates = duplicates(records);
    let tokens = TokenStats::of(examples, limit);
    SetStats { records: records.len(), forms, categories, duplicates, tokens }
}

impl TokenStats {
    fn of(examples: &[Example], limit: usize) -> Self {
        let mut lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
        lengths.sort_unstable();
        // The length that `percent` of them don't exceed.
        let percentile = |percent: usize| {
            let place = (lengths.len() * percent).div_ceil(100).saturating_sub(1);
            lengths.get(place).copied().unwrap_or(0)
        };
        let total = lengths.iter().sum();
        let trained: Vec<usize> = examples.iter().map(|example| example.trained(limit)).collect();
        let mut histogram: Vec<Bin> = Vec::new();
        for &length in &lengths {
            let most = length.max(16).next_power_of_two();
            match histogram.last_mut() {
                Some(bin) if bin.most == most => bin.examples += 1,
                _ => histogram.push(Bin { most, examples: 1 }),
            }
        }
        Self {
            total,
            trained: trained.iter().sum(),
            min: percentile(0),
            median: percentile(50),
            mean: total as f64 / lengths.len().max(1) as f64,
            p95: percentile(95),
            max: percentile(100),
            histogram,
            over_long: lengths.iter().filter(|&&length| length > limit).count(),
            untrained: trained.iter().filter(|&&trained| trained == 0).count(),
        }
    }
}

/// How many records stand in the set before.
pub fn duplicates(records: &[&Record]) -> Repeats {
    let (mut exact, mut alike) = (HashSet::new(), HashSet::new());
    let mut repeats = Repeats::default();
    for record in records {
        let is_new = exact.insert(digest(&record.body.to_string()));
        let is_other = alike.insert(digest(&normalized(&said(record))));
        repeats.exact += usize::from(!is_new);
        repeats.normalized += usize::from(is_new && !is_other);
    }
    repeats
}

/// How many records of `held_out` have a prompt that `trained` has too: what comes before the last
/// message, or a text record as it is.
pub fn leaks(held_out: &[&Record], trained: &[&Record]) -> Repeats {
    let mut repeats = Repeats::default();
    let (mut exact, mut alike) = (HashSet::new(), HashSet::new());
    for prompt in trained.iter().map(|record| prompt(record)) {
        exact.insert(digest(&prompt));
        alike.insert(digest(&normalized(&prompt)));
    }
    for prompt in held_out.iter().map(|record| prompt(record)) {
        if exact.contains(&digest(&prompt)) {
            repeats.exact += 1;
        } else if alike.contains(&digest(&normalized(&prompt))) {
            repeats.normalized += 1;
        }
    }
    repeats
}

/// What an epoch of a set takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EpochStats {
    /// Batches, which are iterations.
    pub batches: usize,
    /// Tokens computed.
    pub tokens: usize,
    /// Tokens of the largest batch.
    pub most_tokens: usize,
    /// Tokens that padding to the longest of each batch would add; none is computed.
    pub padding: usize,
}

/// Deals out an epoch of `set`.
///
/// # Errors
/// As [`BatchSource::new`].
pub fn epoch(set: BatchSet) -> Result<EpochStats> {
    let batches = set.batches();
    let mut stats = EpochStats { batches, tokens: 0, most_tokens: 0, padding: 0 };
    let mut source = BatchSource::new(set)?;
    for _ in 0..batches {
        let batch = source.next_batch();
        let (count, longest) = (batch.tokens.len(), batch.tokens.iter().map(|t| t.position + 1));
        let longest = longest.max().unwrap_or(0) as usize;
        stats.tokens += count;
        stats.most_tokens = stats.most_tokens.max(count);
        stats.padding += longest * batch.sequences - count;
    }
    Ok(stats)
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The text in lower case, with one space between words.
fn normalized(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How many records of `test` have a prompt that `trained` has too: what comes before the last
/// message, or a text record as it is.
pub fn overlap(test: &[&Record], trained: &[&Record]) -> Overlap {
    let test: Vec<String> = test.iter().map(|record| prompt(record)).collect();
    let trained: Vec<String> = trained.iter().map(|record| prompt(record)).collect();
    let asked: HashSet<&str> = test.iter().map(String::as_str).collect();
    // One look-up for each length that a test prompt has, instead of a search for each prompt.
    let lengths: BTreeSet<usize> = test.iter().map(String::len).collect();
    let (mut same, mut seen) = (HashSet::new(), HashSet::new());
    for prompt in &trained {
        same.extend(asked.get(prompt.as_str()));
        let starts = lengths.iter().filter_map(|length| prompt.len().checked_sub(*length));
        let ends = starts.filter_map(|start| prompt.get(start..));
        seen.extend(ends.filter_map(|end| asked.get(end)));
    }
    let count = |found: &HashSet<&str>| test.iter().filter(|p| found.contains(p.as_str())).count();
    Overlap { same: count(&same), varied: count(&seen) - count(&same) }
}

/// All that a record says, and who says it.
fn said(record: &Record) -> String {
    let (mut said, tools) = match &record.body {
        Body::Text(text) => (text.clone(), None),
        Body::Completion { prompt, completion, tools } => {
            (format!("{prompt} \0 {completion}"), tools.as_ref())
        }
        Body::Chat { messages, tools } => (all(messages), tools.as_ref()),
        Body::Preference { chosen, rejected, tools } => {
            (format!("{} \0\0 {}", all(chosen), all(rejected)), tools.as_ref())
        }
    };
    for tool in tools.into_iter().flatten() {
        said += &format!(" \0 {tool}");
    }
    said
}

fn all(messages: &[Message]) -> String {
    let message = |m: &Message| {
        let extra = serde_json::Value::Object(m.extra.clone());
        format!("\0 {} {} {extra}", m.role, m.content.as_deref().unwrap_or_default())
    };
    messages.iter().map(message).collect()
}

fn prompt(record: &Record) -> String {
    match &record.body {
        Body::Text(text) => text.clone(),
        Body::Completion { prompt, .. } => prompt.clone(),
        Body::Chat { messages, .. } | Body::Preference { chosen: messages, .. } => {
            // Without an answer, the one message is the prompt.
            let count = messages.len().saturating_sub(1).max(1);
            let contents =
                messages.iter().take(count).map(|m| m.content.as_deref().unwrap_or_default());
            contents.collect::<Vec<_>>().join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::{BatchConfig, Semantics};
    use crate::data::patterns::ours;
    use crate::data::split::{Protocol, SplitConfig, build};
    use crate::testing::test;

    fn chat(user: &str, assistant: &str, category: Option<&str>) -> Record {
        Record::chat(user, assistant, category)
    }

    fn refs(records: &[Record]) -> Vec<&Record> {
        records.iter().collect()
    }

    #[test]
    fn counts_lengths_and_categories() {
        let records =
            [chat("a", "b", Some("x")), chat("a", "b", Some("y")), chat("a", "c", Some("x"))];
        let example = |n: u32, prompt_len| Example::new((0..n).collect(), prompt_len);
        let stats = of(&refs(&records), &[example(19, 2), example(2, 0), example(4, 3)], 4);
        assert_eq!(stats.forms, BTreeMap::from([("chat", 3)]));
        assert_eq!(stats.categories, BTreeMap::from([("x".into(), 2), ("y".into(), 1)]));
        let tokens = TokenStats {
            total: 25,
            trained: 2 + 1 + 1,
            min: 2,
            median: 4,
            mean: 25.0 / 3.0,
            p95: 19,
            max: 19,
            histogram: vec![Bin { most: 16, examples: 2 }, Bin { most: 32, examples: 1 }],
            over_long: 1,
            untrained: 0,
        };
        assert_eq!(stats.tokens, tokens);
        assert_eq!(of(&[], &[], 4).tokens, TokenStats::default());
        let many: Vec<Example> = (1..=100).map(|n| example(n, 0)).collect();
        let tokens = TokenStats::of(&many, 100);
        assert_eq!((tokens.median, tokens.p95, tokens.untrained), (50, 95, 1));
    }

    #[test]
    fn an_epoch_is_counted_by_its_batches() {
        let lengths = [3, 5, 5, 9];
        let examples = lengths.map(|n| Example::new((0..n).collect(), 0)).to_vec();
        let config = |batch_size| BatchConfig {
            semantics: Semantics::Engram,
            batch_size,
            max_seq_length: 8,
            seed: 0,
        };
        let stats = |size| epoch(BatchSet::new(examples.clone(), config(size)).unwrap());
        // A sequence's last token is no input; the longest is cut to 8.
        let whole = EpochStats { batches: 1, tokens: 17, most_tokens: 17, padding: 4 * 7 - 17 };
        assert_eq!(stats(4).unwrap(), whole);
        assert_eq!(
            stats(1).unwrap(),
            EpochStats { batches: 4, tokens: 17, most_tokens: 7, padding: 0 }
        );
        assert!(stats(5).is_err());
    }

    #[test]
    fn repetitions_are_counted_once_by_what_they_share() {
        let records = [
            chat("A b", "c", None),
            chat("A b", "c", Some("x")),
            chat("a\n B ", "C", None),
            chat("a b c", "", None),
        ];
        assert_eq!(duplicates(&refs(&records)), Repeats { exact: 1, normalized: 1 });
        let with = |tools: &str| {
            let line = format!("{{\"prompt\":\"a\",\"completion\":\"b\",\"tools\":[{tools}]}}");
            crate::data::jsonl::parse("x", line.as_bytes()).unwrap().remove(0)
        };
        let tools = [with("{\"f\":1}"), with("{\"f\":2}"), with("")];
        assert_eq!(duplicates(&refs(&tools)), Repeats::default());
        assert_eq!(duplicates(&[]), Repeats::default());

        let held = [chat("a b", "1", None), chat(" A  B", "2", None), chat("c", "3", None)];
        let trained = [chat("a b", "4", None), chat("d", "5", None)];
        let found = leaks(&refs(&held), &refs(&trained));
        assert_eq!(found, Repeats { exact: 1, normalized: 1 });
        assert_eq!(leaks(&refs(&held), &[]), Repeats::default());
    }

    #[test]
    fn prompts_are_found_whole_and_at_the_end_of_longer_ones() {
        let test = [chat("é b", "1", None), chat("b", "2", None), chat("c", "3", None)];
        let trained = [chat("é b", "4", None), chat("bc d", "5", None)];
        assert_eq!(overlap(&refs(&test), &refs(&trained)), Overlap { same: 1, varied: 1 });
        assert_eq!(overlap(&refs(&test), &[]), Overlap::default());
        let mut alone = [chat("f", "1", None)];
        let Body::Chat { messages, .. } = &mut alone[0].body else { panic!() };
        messages.truncate(1);
        assert_eq!(overlap(&refs(&alone), &refs(&trained)), Overlap::default());
    }

    #[test]
    fn only_the_original_protocol_tests_what_was_trained() {
        let overlap_of = |protocol| {
            let config = SplitConfig { protocol, ..SplitConfig::default() };
            let mut splits = build(&ours(), &config).unwrap();
            splits.train.append(&mut splits.valid);
            (overlap(&refs(&splits.test), &refs(&splits.train)), splits.test.len())
        };
        let (original, test) = overlap_of(Protocol::Original);
        assert_eq!(original, Overlap { same: test, varied: 0 });
        assert_eq!(overlap_of(Protocol::HeldOut).0, Overlap::default());
    }
}
