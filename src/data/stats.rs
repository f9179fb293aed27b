//! What is in a data set: sizes, lengths, duplicates, and test prompts that training has seen.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::jsonl::{Body, Record};
use super::tokens::Example;

/// One file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStats {
    /// Its records.
    pub records: usize,
    /// Records of each category; those without one are not in it.
    pub categories: BTreeMap<String, usize>,
    /// Records that stand in the file before, word for word (categories aside).
    pub duplicates: usize,
    /// Lengths of the records in tokens.
    pub tokens: TokenStats,
}

/// Lengths of examples in tokens, all 0 if there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenStats {
    /// All together.
    pub total: usize,
    /// The shortest.
    pub min: usize,
    /// Half are not longer (of an even count, the lower of the two in the middle).
    pub median: usize,
    /// The longest.
    pub max: usize,
    /// Examples longer than the limit, which training cuts off.
    pub over_long: usize,
}

/// Prompts of one set that occur in another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Word for word.
    pub same: usize,
    /// Only as the end of a longer prompt, as [`super::augment`] makes them.
    pub varied: usize,
}

/// Counts over `records` and what [`super::tokens::tokenize`] made of them; an example of more than
/// `limit` tokens is over-long.
pub fn of(records: &[Record], examples: &[Example], limit: usize) -> SetStats {
    let mut categories = BTreeMap::new();
    for category in records.iter().filter_map(|record| record.category.clone()) {
        *categories.entry(category).or_default() += 1;
    }
    let bodies: HashSet<String> = records.iter().map(|record| record.body.to_string()).collect();
    let mut lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
    lengths.sort_unstable();
    let tokens = TokenStats {
        total: lengths.iter().sum(),
        min: lengths.first().copied().unwrap_or(0),
        median: lengths.get(lengths.len().saturating_sub(1) / 2).copied().unwrap_or(0),
        max: lengths.last().copied().unwrap_or(0),
        over_long: lengths.iter().filter(|&&length| length > limit).count(),
    };
    let duplicates = records.len() - bodies.len();
    SetStats { records: records.len(), categories, duplicates, tokens }
}

/// How many records of `test` have a prompt that `trained` has too: what comes before the last
/// message, or a text record as it is.
pub fn overlap(test: &[Record], trained: &[Record]) -> Overlap {
    let test: Vec<String> = test.iter().map(prompt).collect();
    let trained: Vec<String> = trained.iter().map(prompt).collect();
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

fn prompt(record: &Record) -> String {
    match &record.body {
        Body::Text(text) => text.clone(),
        Body::Completion { prompt, .. } => prompt.clone(),
        Body::Chat { messages, .. } => {
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
    use crate::data::patterns::ours;
    use crate::data::split::{Protocol, SplitConfig, build};
    use crate::testing::test;

    fn chat(user: &str, assistant: &str, category: Option<&str>) -> Record {
        Record::chat(user, assistant, category)
    }

    #[test]
    fn counts_lengths_and_duplicates() {
        let records =
            [chat("a", "b", Some("x")), chat("a", "b", Some("y")), chat("a", "c", Some("x"))];
        let example = |n: u32| Example::new((0..n).collect(), 0);
        let stats = of(&records, &[example(9), example(2), example(4)], 4);
        assert_eq!(stats.duplicates, 1);
        assert_eq!(stats.categories, BTreeMap::from([("x".into(), 2), ("y".into(), 1)]));
        let tokens = TokenStats { total: 15, min: 2, median: 4, max: 9, over_long: 1 };
        assert_eq!(stats.tokens, tokens);
        assert_eq!(of(&[], &[], 4).tokens, TokenStats::default());
    }

    #[test]
    fn prompts_are_found_whole_and_at_the_end_of_longer_ones() {
        let test = [chat("é b", "1", None), chat("b", "2", None), chat("c", "3", None)];
        let trained = [chat("é b", "4", None), chat("bc d", "5", None)];
        assert_eq!(overlap(&test, &trained), Overlap { same: 1, varied: 1 });
        assert_eq!(overlap(&test, &[]), Overlap::default());
        let mut alone = [chat("f", "1", None)];
        let Body::Chat { messages, .. } = &mut alone[0].body else { panic!() };
        messages.truncate(1);
        assert_eq!(overlap(&alone, &trained), Overlap::default());
    }

    #[test]
    fn only_the_original_protocol_tests_what_was_trained() {
        let overlap_of = |protocol| {
            let config = SplitConfig { protocol, ..SplitConfig::default() };
            let mut splits = build(&ours(), &config).unwrap();
            splits.train.append(&mut splits.valid);
            (overlap(&splits.test, &splits.train), splits.test.len())
        };
        let (original, test) = overlap_of(Protocol::Original);
        assert_eq!(original, Overlap { same: test, varied: 0 });
        assert_eq!(overlap_of(Protocol::HeldOut).0, Overlap::default());
    }
}
