//! Train, validation and test data made of patterns, by one of two protocols.

use std::collections::HashMap;

use super::augment;
use super::jsonl::Record;
use super::patterns::Pattern;
use super::random::{Random, SplitMix64};
use crate::{Error, Result};

/// Which patterns the test set may share with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// As the original experiment did: all variations of all patterns are shuffled and divided
    /// into train and validation, and the test set repeats patterns that are in them. It measures
    /// how well the training set was learnt.
    #[default]
    Original,
    /// Whole patterns, with all their variations, go to test, validation or train. It measures
    /// what was learnt beyond the training set.
    HeldOut,
}

/// How to divide.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitConfig {
    /// Which patterns the sets may share.
    pub protocol: Protocol,
    /// Seed of all choices.
    pub seed: u64,
    /// Share of the examples ([`Protocol::HeldOut`]: of the patterns not held out) that becomes
    /// validation data, rounded up.
    pub valid_fraction: f64,
    /// Most test examples of one category.
    pub test_per_category: usize,
    /// Share of each category's patterns that [`Protocol::HeldOut`] keeps for the test, rounded,
    /// but at least one and never all of a category that has two.
    pub held_out_fraction: f64,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            protocol: Protocol::Original,
            seed: 42,
            valid_fraction: 0.2,
            test_per_category: 3,
            held_out_fraction: 0.2,
        }
    }
}

/// A data set. Train and validation hold variations, test the patterns as they are, with their
/// category.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    /// Content of `train.jsonl`.
    pub train: Vec<Record>,
    /// Content of `valid.jsonl`.
    pub valid: Vec<Record>,
    /// Content of `test.jsonl`.
    pub test: Vec<Record>,
}

/// Makes a data set of patterns. The same patterns and configuration give the same data set.
///
/// # Errors
/// [`Error::Invalid`] where a fraction is not in `0..1`, or where train or test would be empty.
pub fn build(patterns: &[Pattern], config: &SplitConfig) -> Result<Splits> {
    for (name, fraction) in
        [("valid_fraction", config.valid_fraction), ("held_out_fraction", config.held_out_fraction)]
    {
        if !(0.0..1.0).contains(&fraction) {
            return Err(Error::invalid(format!(
                "{name} is {fraction}; it is at least 0 and below 1"
            )));
        }
    }
    let mut rng = SplitMix64::new(config.seed);
    let splits = match config.protocol {
        Protocol::Original => original(patterns, config, &mut rng),
        Protocol::HeldOut => held_out(patterns, config, &mut rng),
    };
    for (name, records) in [("train", &splits.train), ("test", &splits.test)] {
        if records.is_empty() {
            let given = patterns.len();
            return Err(Error::invalid(format!(
                "the {name} set would be empty: {given} patterns are too few for these fractions"
            )));
        }
    }
    Ok(splits)
}

fn original(patterns: &[Pattern], config: &SplitConfig, rng: &mut SplitMix64) -> Splits {
    let mut test = Vec::new();
    for mut members in by_category(patterns) {
        rng.shuffle(&mut members);
        members.truncate(config.test_per_category);
        test.extend(members);
    }
    rng.shuffle(&mut test);
    let mut train: Vec<Record> = patterns.iter().flat_map(variations).collect();
    rng.shuffle(&mut train);
    let valid = train.split_off(train.len() - share(train.len(), config.valid_fraction));
    Splits { train, valid, test: test.into_iter().map(as_it_is).collect() }
}

fn held_out(patterns: &[Pattern], config: &SplitConfig, rng: &mut SplitMix64) -> Splits {
    let (mut test, mut rest) = (Vec::new(), Vec::new());
    for mut members in by_category(patterns) {
        rng.shuffle(&mut members);
        let wanted = (members.len() as f64 * config.held_out_fraction).round() as usize;
        let held = wanted.max(1).min(members.len() - 1);
        rest.extend(members.split_off(held));
        members.truncate(config.test_per_category);
        test.extend(members);
    }
    rng.shuffle(&mut test);
    rng.shuffle(&mut rest);
    let valid = rest.split_off(rest.len() - share(rest.len(), config.valid_fraction));
    let mut shuffled = |patterns: Vec<&Pattern>| {
        let mut records: Vec<Record> = patterns.into_iter().flat_map(variations).collect();
        rng.shuffle(&mut records);
        records
    };
    Splits {
        train: shuffled(rest),
        valid: shuffled(valid),
        test: test.into_iter().map(as_it_is).collect(),
    }
}

/// Marks a share of `count` records, rounded up and at least one, to be held out of training for
/// validation. The same seed marks the same ones.
///
/// # Errors
/// A share that is not between 0 and 1, one that leaves nothing to train on.
pub fn hold_out(count: usize, fraction: f64, seed: u64) -> Result<Vec<bool>> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::invalid(format!("val-split is {fraction}; it is between 0 and 1")));
    }
    let held = share(count, fraction).max(1);
    if held >= count {
        return Err(Error::invalid(format!(
            "val-split {fraction} of {count} records leaves none to train on; lower it"
        )));
    }
    let mut marks: Vec<bool> = (0..count).map(|i| i < held).collect();
    SplitMix64::new(seed).shuffle(&mut marks);
    Ok(marks)
}

/// `fraction` of `n`, rounded up. The small number absorbs what a product such as `10 · 0.7` has
/// too much.
fn share(n: usize, fraction: f64) -> usize {
    ((n as f64 * fraction - 1e-9).ceil() as usize).min(n)
}

/// The patterns of each category, categories in the order of their first pattern.
fn by_category(patterns: &[Pattern]) -> Vec<Vec<&Pattern>> {
    let mut place: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<Vec<&Pattern>> = Vec::new();
    for pattern in patterns {
        let at = *place.entry(&pattern.category).or_insert(groups.len());
        if at == groups.len() {
            groups.push(Vec::new());
        }
        groups[at].push(pattern);
    }
    groups
}

fn variations(pattern: &Pattern) -> impl Iterator<Item = Record> {
    augment::inputs(pattern).into_iter().map(|input| Record::chat(&input, &pattern.output, None))
}

fn as_it_is(pattern: &Pattern) -> Record {
    Record::chat(&pattern.input, &pattern.output, Some(&pattern.category))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::jsonl::{Body, parse, to_jsonl};
    use crate::data::patterns::ours;
    use crate::testing::test;
    use std::collections::HashSet;

    fn config(protocol: Protocol) -> SplitConfig {
        SplitConfig { protocol, ..SplitConfig::default() }
    }

    fn user(record: &Record) -> &str {
        let Body::Chat { messages, .. } = &record.body else { panic!() };
        messages[0].content.as_deref().unwrap()
    }

    #[test]
    fn the_original_form_has_the_original_sizes() {
        let splits = build(&ours(), &config(Protocol::Original)).unwrap();
        assert_eq!(splits.train.len(), 269);
        assert_eq!(splits.valid.len(), 68);
        assert_eq!(splits.test.len(), 104);
        let all: HashSet<&str> = splits.train.iter().chain(&splits.valid).map(user).collect();
        assert_eq!(all.len(), 337);
        let mut sizes: HashMap<&str, usize> = HashMap::new();
        for record in &splits.test {
            assert!(all.contains(user(record)));
            *sizes.entry(record.category.as_deref().unwrap()).or_default() += 1;
        }
        assert_eq!(sizes.len(), 38);
        assert!(sizes.values().all(|&n| n <= 3));
    }

    #[test]
    fn held_out_sets_share_no_pattern() {
        let patterns = ours();
        for fraction in [0.0, 0.2, 0.5, 0.99] {
            let config = SplitConfig { held_out_fraction: fraction, ..config(Protocol::HeldOut) };
            let splits = build(&patterns, &config).unwrap();
            let mut home: HashMap<&str, HashSet<&str>> = HashMap::new();
            for (name, records) in
                [("train", &splits.train), ("valid", &splits.valid), ("test", &splits.test)]
            {
                for record in records {
                    // The pattern is the one whose input the variation ends with.
                    let text = user(record);
                    let owners: Vec<&str> = patterns
                        .iter()
                        .filter(|p| augment::inputs(p).iter().any(|input| input == text))
                        .map(|p| p.input.as_str())
                        .collect();
                    assert_eq!(owners.len(), 1, "{text}");
                    home.entry(owners[0]).or_default().insert(name);
                }
            }
            assert!(home.values().all(|names| names.len() == 1));
            assert!(splits.test.iter().all(|r| r.category.is_some()));
            if fraction == 0.2 {
                assert_eq!(splits.test.len(), 38, "one of each category");
            }
        }
    }

    #[test]
    fn the_seed_decides_and_nothing_else() {
        let patterns = ours();
        for protocol in [Protocol::Original, Protocol::HeldOut] {
            let first = build(&patterns, &config(protocol)).unwrap();
            assert_eq!(first, build(&patterns, &config(protocol)).unwrap());
            let other = SplitConfig { seed: 43, ..config(protocol) };
            assert_ne!(first, build(&patterns, &other).unwrap());
        }
    }

    #[test]
    fn the_files_are_read_back() {
        let splits = build(&ours(), &config(Protocol::HeldOut)).unwrap();
        assert_eq!(parse("test", to_jsonl(&splits.test).as_bytes()).unwrap(), splits.test);
    }

    #[test]
    fn too_few_patterns_and_wrong_fractions_are_refused() {
        let one = &ours()[..1];
        let error = build(one, &config(Protocol::HeldOut)).unwrap_err().to_string();
        assert!(error.contains("set would be empty"), "{error}");
        assert!(build(&[], &config(Protocol::Original)).is_err());
        for fraction in [1.0, -0.1, f64::NAN] {
            let config = SplitConfig { valid_fraction: fraction, ..SplitConfig::default() };
            assert!(build(&ours(), &config).is_err());
        }
    }

    #[test]
    fn a_share_is_held_out_by_the_seed() {
        let marks = hold_out(25, 0.1, 3).unwrap();
        assert_eq!((marks.len(), marks.iter().filter(|&&held| held).count()), (25, 3));
        assert_eq!(marks, hold_out(25, 0.1, 3).unwrap());
        assert_ne!(marks, hold_out(25, 0.1, 4).unwrap());
        assert_eq!(hold_out(2, 1e-9, 0).unwrap().iter().filter(|&&held| held).count(), 1);
        for (count, fraction) in [(9, 0.0), (9, 1.0), (9, -0.1), (9, f64::NAN), (1, 0.5), (0, 0.5)]
        {
            assert!(hold_out(count, fraction, 0).is_err(), "{fraction} of {count}");
        }
        assert!(hold_out(4, 0.8, 0).unwrap_err().to_string().contains("leaves none"));
    }

    #[test]
    fn shares_are_rounded_up_without_float_dust() {
        assert_eq!(share(337, 0.2), 68);
        assert_eq!(share(10, 0.7), 7);
        assert_eq!(share(10, 0.0), 0);
        assert_eq!(share(3, 0.99), 3);
    }
}
