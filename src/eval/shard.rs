//! Evaluations in parts: each asks some of the examples, and their reports are joined into the one
//! that a single evaluation would have given.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::harness::{LossSum, candidate_report};
use super::report::{CandidateReport, Report};
use super::{EvalConfig, Subject};
use crate::{Error, Result};

/// One of several equal parts of a list: every `of`th item from the `index`th on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1.
    pub index: usize,
    /// How many parts there are.
    pub of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, of)| {
            let (index, of) = (index.trim().parse().ok()?, of.trim().parse().ok()?);
            (1..=of).contains(&index).then_some(Shard { index, of })
        });
        parts.ok_or_else(|| "not of the form 2/8, the second of eight parts".to_owned())
    }
}

impl Shard {
    /// Its items.
    pub fn of<T>(self, items: Vec<T>) -> Vec<T> {
        items.into_iter().skip(self.index - 1).step_by(self.of).collect()
    }
}

/// What a candidate's figures are computed from, besides its outputs: kept in the report of a
/// shard alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// Seconds of every completion, example by example, its runs together.
    pub seconds: Vec<f64>,
    /// Tokens generated in all of them.
    pub tokens: usize,
    /// The loss of every expected answer; empty if it was not asked for.
    pub losses: Vec<LossSum>,
}

/// Joins the reports of all shards, each with the name that errors call it. Environments that
/// differ are named one after another.
///
/// # Errors
/// [`Error::Invalid`] if one is no shard, one is missing or there twice, or they were not asked of
/// the same models and data in the same way.
pub fn merge(reports: &[(String, Report)]) -> Result<Report> {
    let refused = |name: &str, problem: String| Err(Error::invalid(format!("{name}: {problem}")));
    let mut shards: Vec<(&str, Shard, &Report)> = Vec::new();
    for (name, report) in reports {
        let Some(shard) = report.dataset.shard.filter(|s| (1..=s.of).contains(&s.index)) else {
            return refused(name, "the report of a whole evaluation, not of a shard".to_owned());
        };
        shards.push((name, shard, report));
    }
    shards.sort_by_key(|(_, shard, _)| shard.index);
    let Some(&(first_name, Shard { of, .. }, first)) = shards.first() else {
        return Err(Error::invalid("there is no report to merge"));
    };
    for (place, &(name, shard, report)) in shards.iter().enumerate() {
        if shard.of != of {
            let problem = format!("one of {} shards, where {first_name} is of {of}", shard.of);
            return refused(name, problem);
        }
        if shard.index != place + 1 {
            let problem = match shard.index <= place {
                true => format!("shard {} is there twice", shard.index),
                false => format!("shard {} of {of} is missing", place + 1),
            };
            return refused(name, problem);
        }
        if let Some(what) = difference(first, report) {
            return refused(name, format!("{what} differs from that of {first_name}"));
        }
        if !is_sound(report) {
            return refused(name, "its parts do not fit its answers; evaluate again".to_owned());
        }
    }
    if shards.len() != of {
        return Err(Error::invalid(format!(
            "shard {} of {of} is missing; give the reports of all",
            shards.len() + 1
        )));
    }
    let counts: Vec<usize> = shards.iter().map(|(.., r)| r.candidates[0].outputs.len()).collect();
    let total: usize = counts.iter().sum();
    if let Some(at) = (0..of).find(|&at| counts[at] != (total + of - 1 - at) / of) {
        return refused(shards[at].0, "has not the number of questions of its share".to_owned());
    }

    let mut environment = first.environment.clone();
    for (.., report) in &shards[1..] {
        let adapter = &report.environment.adapter;
        if !environment.adapter.split(" + ").any(|known| known == adapter) {
            environment.adapter += " + ";
            environment.adapter += adapter;
        }
    }
    let mut dataset = first.dataset.clone();
    dataset.shard = None;
    let runs = |candidate: &CandidateReport| candidate.consistency.map_or(1, |c| c.runs);
    let config = EvalConfig {
        protocol: first.protocol,
        max_new_tokens: first.max_new_tokens,
        runs: runs(&first.candidates[0]),
        ..EvalConfig::default()
    };
    let candidates = (0..first.candidates.len())
        .map(|i| {
            let (mut outputs, mut parts) = (Vec::with_capacity(total), Parts::default());
            for example in 0..total {
                let (candidate, at) = (&shards[example % of].2.candidates[i], example / of);
                outputs.push(candidate.outputs[at].clone());
                let own = candidate.parts.iter();
                for Parts { seconds, losses, .. } in own {
                    parts.seconds.extend(&seconds[at * config.runs..(at + 1) * config.runs]);
                    parts.losses.extend(losses.get(at));
                }
            }
            let tokens = shards.iter().filter_map(|(.., r)| r.candidates[i].parts.as_ref());
            parts.tokens = tokens.fold(0, |sum, parts| sum.saturating_add(parts.tokens));
            candidate_report(first.candidates[i].name.clone(), &config, outputs, parts)
        })
        .collect();
    Report::new(Subject { model: first.model.clone(), dataset, environment }, &config, candidates)
}

/// In what two shards of one evaluation may not differ, and do.
fn difference(a: &Report, b: &Report) -> Option<&'static str> {
    let names = |report: &Report| -> Vec<(String, Option<usize>, bool)> {
        let candidates = report.candidates.iter();
        let of = |c: &CandidateReport| {
            let has_loss = c.parts.as_ref().is_some_and(|parts| !parts.losses.is_empty());
            (c.name.clone(), c.consistency.map(|c| c.runs), has_loss)
        };
        candidates.map(of).collect()
    };
    let data = |report: &Report| {
        let dataset = &report.dataset;
        (dataset.name.clone(), dataset.sha256.clone(), dataset.seen_in_training)
    };
    [
        ("the model", a.model == b.model),
        ("the data set", data(a) == data(b)),
        ("the protocol", a.protocol == b.protocol),
        ("the longest answer", a.max_new_tokens == b.max_new_tokens),
        ("what the candidates are", names(a) == names(b)),
    ]
    .into_iter()
    .find_map(|(what, same)| (!same).then_some(what))
}

/// Whether every candidate has as many parts as answers.
fn is_sound(report: &Report) -> bool {
    let count = report.candidates.first().map_or(0, |first| first.outputs.len());
    report.candidates.iter().all(|candidate| {
        let runs = candidate.consistency.map_or(1, |consistency| consistency.runs);
        candidate.outputs.len() == count
            && candidate.parts.as_ref().is_some_and(|Parts { seconds, losses, .. }| {
                count.checked_mul(runs) == Some(seconds.len())
                    && (losses.is_empty() || losses.len() == count)
            })
    })
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    // Nothing here waits, so that a page may do so too.
    use pollster::block_on;

    use super::*;
    use crate::eval::evaluate;
    use crate::eval::fixtures::{Fake, examples, subject};
    use crate::testing::test;

    fn report(shard: Option<Shard>, config: &EvalConfig) -> Report {
        let mut subject = subject();
        subject.dataset.shard = shard;
        let asked = match shard {
            Some(shard) => shard.of(examples()),
            None => examples(),
        };
        let mut base = Fake::base();
        base.nll = 1.0 / 3.0;
        let mut candidates = [base, Fake::tuned()];
        let mut go_on = |_: &crate::eval::Progress<'_>| ControlFlow::Continue(());
        block_on(evaluate(&mut candidates, &asked, config, subject, &mut go_on)).unwrap()
    }

    fn shards(of: usize, config: &EvalConfig) -> Vec<(String, Report)> {
        (1..=of)
            .map(|index| (format!("r{index}"), report(Some(Shard { index, of }), config)))
            .collect()
    }

    #[test]
    fn joined_shards_are_the_whole_report() {
        for runs in [1, 3] {
            for loss in [true, false] {
                let config = EvalConfig { runs, loss, ..EvalConfig::default() };
                let whole = report(None, &config);
                for of in 1..=4 {
                    let mut parts = shards(of, &config);
                    parts.reverse();
                    // As they come from files.
                    for (name, part) in &mut parts {
                        let json = part.to_json().unwrap();
                        *part = Report::from_json(name, json.as_bytes()).unwrap();
                    }
                    assert_eq!(merge(&parts).unwrap(), whole);
                }
            }
        }
    }

    #[test]
    fn shards_that_do_not_fit_are_refused() {
        let config = EvalConfig::default();
        let refused = |reports: &[(String, Report)], expected: &str| {
            let problem = merge(reports).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        };
        let good = shards(2, &config);
        refused(&[], "no report");
        refused(&good[..1], "shard 2 of 2 is missing");
        refused(&good[1..], "shard 1 of 2 is missing");
        refused(&[good[0].clone(), good[0].clone()], "r1: shard 1 is there twice");
        refused(&[good[0].clone(), shards(3, &config)[1].clone()], "r2: one of 3 shards");
        refused(&[("w".into(), report(None, &config))], "w: the report of a whole");
        let other = |change: fn(&mut Report), expected: &str| {
            let mut reports = shards(2, &config);
            change(&mut reports[1].1);
            refused(&reports, expected);
        };
        other(|r| r.model.push('x'), "r2: the model differs from that of r1");
        other(|r| r.dataset.sha256 = Some("x".into()), "the data set differs");
        other(|r| r.max_new_tokens = 3, "the longest answer differs");
        other(|r| r.candidates[1].name.push('x'), "what the candidates are differs");
        other(|r| r.candidates[1].parts = None, "what the candidates are differs");
        other(|r| r.candidates[1].parts.as_mut().unwrap().seconds.clear(), "its parts do not fit");
        other(|r| drop(r.candidates[0].outputs.pop()), "its parts do not fit");
        other(|r| r.dataset.shard = Some(Shard { index: 0, of: 0 }), "of a whole evaluation");
    }

    #[test]
    fn a_shard_is_written_as_two_numbers() {
        assert_eq!("2/8".parse(), Ok(Shard { index: 2, of: 8 }));
        for wrong in ["", "2", "0/8", "9/8", "1/0", "a/b", "-1/2", "1/2/3"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
        let all = vec![0, 1, 2, 3, 4];
        assert_eq!(Shard { index: 2, of: 3 }.of(all.clone()), [1, 4]);
        assert!(Shard { index: 9, of: 9 }.of(all).is_empty());
    }
}
