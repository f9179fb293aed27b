//! The report of an evaluation, as it stands in `report.json`; `docs/report.md` describes every
//! field.
//!
//! What depends on the machine stands in three groups only: `environment`, `latency` and `cost`.
//! Without them ([`Report::without_machine`]) a native report and a browser's can be compared.

use serde::{Deserialize, Serialize};

use super::harness::{EvalConfig, LossSum, Subject, check_names};
use super::metrics::{Judgement, Protocol, Score};
use super::shard::{Parts, Shard};
use super::stats::{Latency, mcnemar_exact};
use crate::{Error, Result};

/// The version of the JSON that this code writes. It grows with every change that a reader of the
/// former version would misread; a new optional field is no such change.
pub const SCHEMA_VERSION: u32 = 1;

/// A p-value below this counts as a significant difference.
pub const SIGNIFICANCE: f64 = 0.05;

/// The whole of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the code that wrote it.
    pub schema_version: u32,
    /// The base model's name.
    pub model: String,
    /// What was asked.
    pub dataset: DatasetInfo,
    /// How it was asked and judged.
    pub protocol: Protocol,
    /// Longest answer, tokens.
    pub max_new_tokens: usize,
    /// Every candidate's results, in the order given; the first is the baseline.
    pub candidates: Vec<CandidateReport>,
    /// Every two candidates, the earlier one first.
    pub comparisons: Vec<Comparison>,
    /// How the adapter was trained, if the caller knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// Where it ran.
    pub environment: Environment,
}

/// The origin of the examples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// What the caller calls it.
    pub name: String,
    /// SHA-256 of its file, in hexadecimal, if the caller computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Examples asked of each candidate; [`Report::new`] fills it in.
    pub examples: usize,
    /// How many of them stem from a pattern that was trained on, itself or in another wording;
    /// none if that is not known.
    #[serde(default)]
    pub seen_in_training: Option<usize>,
    /// Which part of them was asked, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
}

impl DatasetInfo {
    /// A data set of which only the name is known.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        DatasetInfo { name, sha256: None, examples: 0, seen_in_training: None, shard: None }
    }
}

/// What one candidate did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// Its name.
    pub name: String,
    /// Over all examples.
    pub overall: Score,
    /// Over each category, in the order of their names.
    pub per_category: Vec<CategoryScore>,
    /// Answers that reached `max_new_tokens`, and so may have been cut off.
    pub cut_off: usize,
    /// Over repeated runs, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// Over the expected answers, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Seconds per answer, over all runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Every answer, in the order of the examples.
    pub outputs: Vec<ExampleOutput>,
    /// What joins it with the other shards; none in the report of a whole evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
}

/// The score of one category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryScore {
    /// Its name.
    pub category: String,
    /// Over its examples.
    #[serde(flatten)]
    pub score: Score,
}

/// Whether repeated runs gave the same answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// Runs of each example.
    pub runs: usize,
    /// Examples whose answer was the same in every run.
    pub consistent: usize,
}

/// A loss, averaged over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Tokens that counted.
    pub tokens: u64,
    /// Negative log-likelihood per token, nats, rounded to 4 decimals.
    pub mean: f64,
    /// `exp(mean)`, rounded to 4 decimals; none if that is beyond a double's range.
    pub perplexity: Option<f64>,
}

impl Loss {
    /// The mean of a sum; none if no token counted.
    pub fn of(sum: LossSum) -> Option<Self> {
        let rounded = |value: f64, to: f64| (value * to).round() / to;
        // GPUs add in different orders: what is beyond is the device's, not the model's.
        let mean = rounded(sum.sum_nll / sum.tokens as f64, 1e4);
        // exp is not exact to the last bit on every target.
        let perplexity = rounded(mean.exp(), 1e4);
        (sum.tokens > 0).then_some(Loss {
            tokens: sum.tokens,
            mean,
            perplexity: perplexity.is_finite().then_some(perplexity),
        })
    }
}

/// One example and what a candidate answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExampleOutput {
    /// Its category.
    pub category: String,
    /// What was asked, without a template and without the messages before it.
    pub prompt: String,
    /// What was expected.
    pub expected: String,
    /// What came, in the first run, not stripped.
    pub actual: String,
    /// Right by the protocol's rule.
    pub correct: bool,
    /// Contains the expected answer.
    pub partial: bool,
    /// Tokens generated in the first run.
    pub tokens: usize,
    /// Whether every run gave the same text.
    pub consistent: bool,
}

impl ExampleOutput {
    /// What it is worth.
    pub fn judgement(&self) -> Judgement {
        Judgement { correct: self.correct, partial: self.partial }
    }
}

/// Two candidates on the same examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The earlier candidate's name.
    pub first: String,
    /// The later candidate's name.
    pub second: String,
    /// Examples both got right.
    pub both: usize,
    /// Examples only the first got right.
    pub only_first: usize,
    /// Examples only the second got right.
    pub only_second: usize,
    /// Examples neither got right.
    pub neither: usize,
    /// McNemar's exact test, two-sided.
    pub p_value: f64,
    /// Whether `p_value` is below 0.05; not corrected for the number of comparisons.
    pub significant: bool,
}

impl Comparison {
    fn of(first: &CandidateReport, second: &CandidateReport) -> Self {
        let mut counts = [0_usize; 4];
        for (a, b) in first.outputs.iter().zip(&second.outputs) {
            counts[usize::from(a.correct) + 2 * usize::from(b.correct)] += 1;
        }
        let [neither, only_first, only_second, both] = counts;
        let p_value = mcnemar_exact(only_first, only_second);
        Comparison {
            first: first.name.clone(),
            second: second.name.clone(),
            both,
            only_first,
            only_second,
            neither,
            p_value,
            significant: p_value < SIGNIFICANCE,
        }
    }
}

/// How an adapter was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Every setting, as the trainer keeps it beside the adapter.
    pub config: serde_json::Value,
    /// Parameters trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable_parameters: Option<u64>,
    /// The losses reported on the way, by iteration.
    pub curve: Vec<LossPoint>,
    /// What it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<TrainingCost>,
}

/// The losses reported at one iteration, nats per token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// The iteration, from 1.
    pub iteration: usize,
    /// Over the batches since the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<f64>,
    /// Over the validation set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
}

/// What a training took on its machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainingCost {
    /// From the first to the last iteration.
    pub seconds: f64,
    /// Trained tokens over these seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// The most GPU memory held at once, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// Where an evaluation ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The GPU adapter's name and backend.
    pub adapter: String,
    /// `native` or `web`.
    pub target: String,
    /// Engram's version.
    pub version: String,
}

impl Environment {
    /// This build of Engram on `adapter`.
    pub fn on(adapter: impl Into<String>) -> Self {
        let target = if cfg!(target_arch = "wasm32") { "web" } else { "native" };
        Environment {
            adapter: adapter.into(),
            target: target.into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

impl Report {
    /// Puts the results of `candidates`, asked under `config`, together and compares every two.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none, two share a name, or they were not asked the same.
    pub fn new(
        mut subject: Subject,
        config: &EvalConfig,
        mut candidates: Vec<CandidateReport>,
    ) -> Result<Self> {
        check_names(&candidates.iter().map(|c| c.name.as_str()).collect::<Vec<_>>())?;
        let first = &candidates[0].outputs;
        let same = |(a, b): (&ExampleOutput, &ExampleOutput)| {
            (&a.prompt, &a.expected, &a.category) == (&b.prompt, &b.expected, &b.category)
        };
        let asked_alike = |other: &CandidateReport| {
            other.outputs.len() == first.len() && first.iter().zip(&other.outputs).all(same)
        };
        if let Some(other) = candidates.iter().find(|candidate| !asked_alike(candidate)) {
            return Err(Error::invalid(format!(
                "{} and {} were not asked the same examples, so that they can't be compared",
                candidates[0].name, other.name
            )));
        }
        subject.dataset.examples = first.len();
        if subject.dataset.shard.is_none() {
            candidates.iter_mut().for_each(|candidate| candidate.parts = None);
        }
        let comparisons = candidates
            .iter()
            .enumerate()
            .flat_map(|(i, second)| {
                candidates[..i].iter().map(move |first| Comparison::of(first, second))
            })
            .collect();
        Ok(Report {
            schema_version: SCHEMA_VERSION,
            model: subject.model,
            dataset: subject.dataset,
            protocol: config.protocol,
            max_new_tokens: config.max_new_tokens,
            candidates,
            comparisons,
            training: None,
            environment: subject.environment,
        })
    }

    /// `report.json`: indented, with a line feed at the end.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it can't be written, which only a broken `training.config` can cause.
    pub fn to_json(&self) -> Result<String> {
        let mut json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::invalid(format!("report.json: {error}")))?;
        json.push('\n');
        Ok(json)
    }

    /// Reads the JSON of the file called `name`.
    ///
    /// # Errors
    /// [`Error::Format`] if it is no report, or one of another schema version.
    pub fn from_json(name: &str, json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let malformed = |error: serde_json::Error| {
            Error::format(name, format!("not a report of Engram: {error}"))
        };
        let Version { schema_version } = serde_json::from_slice(json).map_err(malformed)?;
        if schema_version != SCHEMA_VERSION {
            return Err(Error::format(
                name,
                format!(
                    "a report of schema version {schema_version}, where this Engram reads \
                     {SCHEMA_VERSION}: evaluate again"
                ),
            ));
        }
        let report: Report = serde_json::from_slice(json).map_err(malformed)?;
        match report.candidates.is_empty() {
            true => Err(Error::format(name, "a report without a candidate: evaluate again")),
            false => Ok(report),
        }
    }

    /// The report without what depends on the machine: `environment`, `latency` and `cost`. Equal
    /// models, outputs and losses make this equal, natively and in a page.
    #[must_use]
    pub fn without_machine(mut self) -> Self {
        self.environment =
            Environment { adapter: String::new(), target: String::new(), version: String::new() };
        for candidate in &mut self.candidates {
            candidate.latency = None;
            candidate.parts.iter_mut().for_each(|parts| parts.seconds.clear());
        }
        if let Some(training) = &mut self.training {
            training.cost = None;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::fixtures::{bless, experiment, small};
    use crate::testing::test;

    const GOLDEN: &str = include_str!("../../data/goldens/eval/report.json");

    #[test]
    fn the_json_is_the_golden_one() {
        let json = small().to_json().unwrap();
        bless("report.json", &json);
        assert_eq!(json, GOLDEN, "if meant: raise SCHEMA_VERSION unless a field was only added");
    }

    #[test]
    fn the_docs_name_every_field() {
        fn keys(value: &serde_json::Value, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| {
                    found.push(key.clone());
                    // The trainer's settings are described with the trainer.
                    if key != "config" {
                        keys(value, found);
                    }
                }),
                serde_json::Value::Array(items) => items.iter().for_each(|v| keys(v, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        keys(&serde_json::from_str(GOLDEN).unwrap(), &mut found);
        assert!(found.len() > 100);
        let docs = include_str!("../../docs/report.md");
        for key in found {
            assert!(docs.contains(&format!("`{key}`")), "docs/report.md lacks `{key}`");
        }
    }

    #[test]
    fn json_reads_back_as_it_was() {
        for report in [small(), experiment()] {
            let json = report.to_json().unwrap();
            assert_eq!(Report::from_json("report.json", json.as_bytes()).unwrap(), report);
        }
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let problem = |json: &str| Report::from_json("r.json", json.as_bytes()).unwrap_err();
        assert!(problem("{").to_string().starts_with("r.json: not a report"));
        assert!(problem("{}").to_string().contains("schema_version"));
        let newer = GOLDEN.replace("\"schema_version\": 1", "\"schema_version\": 2");
        assert!(problem(&newer).to_string().contains("schema version 2"));
        let mut empty = small();
        empty.candidates.clear();
        assert!(problem(&empty.to_json().unwrap()).to_string().contains("without a candidate"));
        assert!(problem(&GOLDEN[..GOLDEN.len() / 2]).to_string().contains("EOF"));
    }

    #[test]
    fn unknown_fields_of_a_later_engram_are_no_obstacle() {
        let later = GOLDEN.replacen('{', "{\"new\": [1],", 1);
        assert_eq!(Report::from_json("r.json", later.as_bytes()).unwrap(), small());
    }

    #[test]
    fn only_the_machine_differs_between_targets() {
        let native = small();
        let mut web = small();
        web.environment.target = "web".into();
        web.environment.adapter = "another".into();
        web.candidates[0].latency = Latency::of(&[9.0], 1);
        web.training.as_mut().unwrap().cost = None;
        assert_ne!(native, web);
        assert_eq!(native.clone().without_machine(), web.without_machine());
        let mut other = small();
        other.candidates[0].outputs[0].actual.push('!');
        assert_ne!(native.without_machine(), other.without_machine());
    }

    #[test]
    fn every_two_candidates_are_compared() {
        let report = small();
        let mut candidates = report.candidates.clone();
        candidates.push(CandidateReport { name: "third".into(), ..candidates[0].clone() });
        let subject = || Subject {
            model: String::new(),
            dataset: DatasetInfo::named("d"),
            environment: Environment::on("a"),
        };
        let config = EvalConfig::default();
        let all = Report::new(subject(), &config, candidates.clone()).unwrap();
        let pairs: Vec<_> =
            all.comparisons.iter().map(|c| (c.first.as_str(), c.second.as_str())).collect();
        assert_eq!(pairs, [("base", "tuned"), ("base", "third"), ("tuned", "third")]);
        candidates[2].outputs.pop();
        let error = Report::new(subject(), &config, candidates).unwrap_err();
        assert!(error.to_string().contains("base and third"), "{error}");
    }
}
