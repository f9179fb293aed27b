//! Candidates and reports that the tests of this module share.

use super::examples::Example;
use super::harness::{
    Candidate, Completion, EvalConfig, EvalPrompt, LossSum, LossText, PromptForm, Subject,
};
use super::metrics::{Judgement, Protocol, Score};
use super::report::{
    CandidateReport, CategoryScore, DatasetInfo, Environment, ExampleOutput, LossPoint, Report,
    Training, TrainingCost,
};
use super::stats::Latency;
use crate::Result;

/// A candidate that answers from a list, a byte a token.
pub struct Fake {
    name: &'static str,
    answers: [(&'static str, &'static str); 4],
    /// How it was asked: the form and the longest answer.
    pub asked: Vec<(PromptForm, usize)>,
    /// The prompt that it answers differently each time.
    pub wavers_on: Option<&'static str>,
    /// How long an answer takes.
    pub seconds: f64,
    /// The loss of one token, as a multiple of the answer's length.
    pub nll: f64,
}

impl Fake {
    fn new(name: &'static str, answers: [(&'static str, &'static str); 4]) -> Self {
        Fake { name, answers, asked: Vec::new(), wavers_on: None, seconds: 0.25, nll: 1.0 }
    }

    /// Right once by the honest protocol, twice by the original.
    pub fn base() -> Self {
        Fake::new(
            "base",
            [
                ("Capital of France?", "Paris"),
                ("Capital of Spain?", "It is Madrid."),
                ("2+2=", "5"),
                ("3*4=", "12|"),
            ],
        )
    }

    /// Right twice by the honest protocol.
    pub fn tuned() -> Self {
        Fake::new(
            "tuned",
            [
                ("Capital of France?", "Paris"),
                ("Capital of Spain?", "Lisbon"),
                ("2+2=", " 4\n"),
                ("3*4=", "Bonn"),
            ],
        )
    }
}

impl Candidate for Fake {
    fn name(&self) -> &str {
        self.name
    }

    async fn complete(
        &mut self,
        prompt: &EvalPrompt<'_>,
        max_new_tokens: usize,
    ) -> Result<Completion> {
        self.asked.push((prompt.form, max_new_tokens));
        let answer = self.answers.iter().find(|(question, _)| *question == prompt.text);
        let mut text = answer.map_or(String::new(), |(_, answer)| (*answer).to_owned());
        if self.wavers_on == Some(prompt.text) {
            text += &self.asked.len().to_string();
        }
        Ok(Completion { tokens: text.len(), text, seconds: self.seconds })
    }

    async fn loss(&mut self, text: &LossText<'_>) -> Result<LossSum> {
        let (LossText::Answer { answer: text, .. } | LossText::Whole(text)) = text;
        let tokens = text.len() as u64;
        Ok(LossSum { sum_nll: self.nll * (tokens * tokens) as f64, tokens })
    }
}

/// What the fakes are asked.
pub fn examples() -> Vec<Example> {
    [
        ("Capital of France?", "Paris", "capitals"),
        ("Capital of Spain?", "Madrid", "capitals"),
        ("2+2=", "4", "sums"),
        ("3*4=", "12", "sums"),
    ]
    .into_iter()
    .map(|(prompt, expected, category)| Example::new(prompt, expected, category))
    .collect()
}

/// A subject that does not change with the version or the machine.
pub fn subject() -> Subject {
    Subject {
        model: "SmolLM2-135M-Instruct".into(),
        dataset: DatasetInfo {
            seen_in_training: Some(0),
            sha256: Some("00ff".into()),
            ..DatasetInfo::named("held_out.jsonl")
        },
        environment: Environment {
            adapter: "llvmpipe (Vulkan)".into(),
            target: "native".into(),
            version: "0.1.0".into(),
        },
    }
}

fn training(train: &[(usize, f64)], validation: &[(usize, f64)]) -> Training {
    let mut curve: Vec<LossPoint> = Vec::new();
    for &(iteration, loss) in validation {
        curve.push(LossPoint { iteration, train: None, validation: Some(loss) });
    }
    for &(iteration, loss) in train {
        match curve.iter_mut().find(|point| point.iteration == iteration) {
            Some(point) => point.train = Some(loss),
            None => {
                curve.push(LossPoint { iteration, train: Some(loss), validation: None });
            }
        }
    }
    curve.sort_by_key(|point| point.iteration);
    Training {
        config: serde_json::json!({ "rank": 8, "scale": 20.0, "iters": 100 }),
        trainable_parameters: Some(1_302_528),
        curve,
        cost: Some(TrainingCost {
            seconds: 10.5,
            tokens_per_second: Some(2400.0),
            peak_memory_bytes: Some(199_999_488),
        }),
    }
}

/// The two fakes under the honest protocol, with a short training: the report of the goldens.
pub fn small() -> Report {
    let mut candidates = [Fake::base(), Fake::tuned()];
    let config = EvalConfig { runs: 2, ..EvalConfig::default() };
    let mut go_on = |_: &super::Progress<'_>| std::ops::ControlFlow::Continue(());
    let examples = examples();
    let report = super::evaluate(&mut candidates, &examples, &config, subject(), &mut go_on);
    // The fakes never wait, so that a page may do so too.
    let mut report = pollster::block_on(report).unwrap();
    report.training = Some(training(&[(10, 4.14), (20, 3.327)], &[(1, 4.344), (20, 2.365)]));
    report
}

/// A report of the original experiment's size and figures: 104 examples in 40 categories, 9 right
/// against 12, and its losses.
pub fn experiment() -> Report {
    let name = |category: usize| match category % 4 {
        0 => format!("code/idiom-{category}"),
        1 => format!("facts/subject-{category}"),
        2 => format!("format/list-to-table-{category}"),
        _ => format!("fix/error-{category}"),
    };
    // The first 24 categories have three examples, the other 16 two.
    let sizes = (0..40).map(|category| if category < 24 { 3 } else { 2 });
    let places: Vec<usize> =
        sizes.enumerate().flat_map(|(category, n)| std::iter::repeat_n(category, n)).collect();
    let candidate = |candidate: &str, right: &[usize]| {
        let outputs: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(i, &category)| ExampleOutput {
                category: name(category),
                prompt: format!("prompt {i}"),
                expected: "right".into(),
                actual: if right.contains(&i) { "right" } else { "wrong" }.into(),
                correct: right.contains(&i),
                partial: right.contains(&i),
                tokens: 50,
                consistent: true,
            })
            .collect();
        let score = |of: &dyn Fn(&ExampleOutput) -> bool| {
            let judged = outputs.iter().filter(|output| of(output));
            Score::of(judged.map(ExampleOutput::judgement).collect::<Vec<Judgement>>())
        };
        CandidateReport {
            name: candidate.into(),
            overall: score(&|_| true),
            per_category: (0..40)
                .map(|category| CategoryScore {
                    category: name(category),
                    score: score(&|output| output.category == name(category)),
                })
                .collect(),
            cut_off: outputs.len(),
            consistency: None,
            loss: None,
            latency: Latency::of(&[0.25, 0.26], 100),
            outputs,
            parts: None,
        }
    };
    // Right in both 5, in the first alone 4, in the second alone 7.
    let base = candidate("base", &[0, 10, 20, 30, 40, 6, 51, 70, 71]);
    let tuned = candidate("tuned", &[0, 10, 20, 30, 40, 3, 4, 60, 80, 90, 15, 103]);
    let config = EvalConfig { protocol: Protocol::Original, ..EvalConfig::default() };
    let mut report = Report::new(subject(), &config, vec![base, tuned]).unwrap();
    let train = [4.140, 3.327, 2.745, 2.421, 2.367, 2.174, 2.070, 1.891, 1.743, 1.755];
    let train: Vec<_> = (10..=100).step_by(10).zip(train).collect();
    report.training = Some(training(&train, &[(1, 4.344), (50, 2.365), (100, 1.815)]));
    report
}

/// Writes a golden of `data/goldens/eval` anew if the environment variable `ENGRAM_BLESS` is set;
/// the test that calls it then fails once, for it was built with the former one.
pub fn bless(file: &str, text: &str) {
    if std::env::var_os("ENGRAM_BLESS").is_some() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/goldens/eval");
        std::fs::write(format!("{folder}/{file}"), text).unwrap();
    }
}
