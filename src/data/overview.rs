//! A data set counted: each of its sets, and what they have of one another.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::batch::{BatchConfig, BatchSet};
use super::record::Record;
use super::stats::{self, EpochStats, Overlap, Repeats, SetStats};
use super::tokens::Example;

/// The set that nothing is trained on less than a batch of.
pub const TRAIN: &str = "train";
/// The set that is asked about in the end.
pub const TEST: &str = "test";

/// A set to count.
#[derive(Debug)]
pub struct Set<'a> {
    /// `train`, `valid` or `test`.
    pub name: &'static str,
    /// Its records.
    pub records: Vec<&'a Record>,
    /// What [`super::tokens::tokenize`] made of them.
    pub examples: Vec<Example>,
}

/// What [`overview`] finds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// Longer examples are over-long.
    pub max_seq_length: usize,
    /// Examples of a batch.
    pub batch_size: usize,
    /// In the order that they were given.
    #[serde(serialize_with = "by_name")]
    pub sets: Vec<Counted>,
    /// Of each pair of sets, prompts of the later one that the other has too.
    pub leaks: Vec<Leaks>,
    /// Test prompts that the others have, those at the end of a longer prompt too.
    pub tested: Option<Tested>,
}

/// A set, counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counted {
    /// Its name.
    #[serde(skip)]
    pub name: &'static str,
    /// Its counts.
    #[serde(flatten)]
    pub stats: SetStats,
    /// Examples over the limit, which training cuts.
    pub over_long: Vec<OverLong>,
    /// An epoch of it, if it makes batches.
    pub epoch: Option<EpochStats>,
    /// Or why it makes none.
    pub problem: Option<String>,
}

/// An example that is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OverLong {
    /// Its number in the set, from 0.
    pub index: usize,
    /// Its length.
    pub tokens: usize,
}

/// Prompts of one set that another has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Leaks {
    /// The set whose prompts they are.
    pub of: &'static str,
    /// The set that has them too.
    #[serde(rename = "in")]
    pub within: &'static str,
    /// How many.
    #[serde(flatten)]
    pub repeats: Repeats,
}

/// Test prompts that training or validation has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// Test prompts in all.
    pub prompts: usize,
    /// Those that were seen.
    #[serde(flatten)]
    pub overlap: Overlap,
}

/// Counts `sets`, in batches of `config`.
pub fn overview(sets: Vec<Set<'_>>, config: BatchConfig) -> Overview {
    let mut leaks = Vec::new();
    for (i, held) in sets.iter().enumerate() {
        leaks.extend(sets[..i].iter().map(|trained| Leaks {
            of: held.name,
            within: trained.name,
            repeats: stats::leaks(&held.records, &trained.records),
        }));
    }
    let test = sets.iter().find(|set| set.name == TEST);
    let seen = sets.iter().filter(|set| set.name != TEST);
    let seen: Vec<&Record> = seen.flat_map(|set| set.records.iter().copied()).collect();
    let tested = test.filter(|_| !seen.is_empty()).map(|test| Tested {
        prompts: test.records.len(),
        overlap: stats::overlap(&test.records, &seen),
    });
    Overview {
        max_seq_length: config.max_seq_length,
        batch_size: config.batch_size,
        sets: sets.into_iter().map(|set| count(set, config.clone())).collect(),
        leaks,
        tested,
    }
}

fn count(set: Set<'_>, config: BatchConfig) -> Counted {
    let Set { name, records, examples } = set;
    let limit = config.max_seq_length;
    let lengths = examples.iter().map(|example| example.ids.len()).enumerate();
    let over_long = lengths.filter(|(_, tokens)| *tokens > limit);
    let over_long = over_long.map(|(index, tokens)| OverLong { index, tokens }).collect();
    let stats = stats::of(&records, &examples, limit);
    // Other sets may be smaller than a batch.
    let batch_size = match name {
        TRAIN => config.batch_size,
        _ => config.batch_size.min(examples.len()),
    };
    let epoch =
        BatchSet::new(examples, BatchConfig { batch_size, ..config }).and_then(stats::epoch);
    let (epoch, problem) = match epoch {
        Ok(epoch) => (Some(epoch), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Counted { name, stats, over_long, epoch, problem }
}

fn by_name<S: Serializer>(sets: &[Counted], serializer: S) -> Result<S::Ok, S::Error> {
    let sets: BTreeMap<&str, &Counted> = sets.iter().map(|set| (set.name, set)).collect();
    sets.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::Semantics;
    use crate::data::jsonl;
    use crate::testing::test;

    #[test]
    fn sets_are_counted_and_compared() {
        let read = |lines: &str| jsonl::parse("data", lines.as_bytes()).unwrap();
        let train = read(
            "{\"prompt\": \"one\", \"completion\": \"1\"}\n{\"prompt\": \"two\", \"completion\": \"2\"}\n\
             {\"prompt\": \"two\", \"completion\": \"2\"}\n",
        );
        let test = read(
            "{\"prompt\": \"two\", \"completion\": \"2\"}\n{\"prompt\": \"three\", \"completion\": \"3\"}\n",
        );
        let example = |length: usize| Example::new(vec![1; length], 0);
        let set = |name, records, lengths: &[usize]| Set {
            name,
            records,
            examples: lengths.iter().map(|&length| example(length)).collect(),
        };
        let config =
            BatchConfig { semantics: Semantics::Engram, batch_size: 4, max_seq_length: 8, seed: 0 };
        let found = overview(
            vec![
                set(TRAIN, train.iter().collect(), &[3, 9, 5]),
                set(TEST, test.iter().collect(), &[3, 4]),
            ],
            config,
        );
        let [trained, tested] = &found.sets[..] else { panic!("{found:?}") };
        assert_eq!(trained.over_long, [OverLong { index: 1, tokens: 9 }]);
        assert_eq!(trained.stats.duplicates, Repeats { exact: 1, normalized: 0 });
        // Three examples are no batch of four to train on, but two are one to be tested on.
        assert!(trained.problem.as_ref().unwrap().contains("batch"), "{trained:?}");
        assert_eq!(tested.epoch.unwrap().batches, 1);
        let repeats = Repeats { exact: 1, normalized: 0 };
        assert_eq!(found.leaks, [Leaks { of: TEST, within: TRAIN, repeats }]);
        let overlap = Overlap { same: 1, varied: 0 };
        assert_eq!(found.tested, Some(Tested { prompts: 2, overlap }));
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["sets"]["train"]["over_long"][0]["tokens"], 9);
        assert_eq!(json["sets"]["train"]["records"], 3);
        assert_eq!(json["leaks"][0]["in"], "train");
        assert_eq!(json["tested"]["same"], 1);
    }
}
