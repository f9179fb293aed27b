//! Asks every candidate the same questions and gathers what they say.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::examples::Example;
use super::metrics::{Protocol, Score, strip};
use super::report::{
    CandidateReport, CategoryScore, Consistency, DatasetInfo, Environment, ExampleOutput, Loss,
    Report,
};
use super::shard::Parts;
use super::stats::Latency;
use crate::data::jsonl::Message;
use crate::{Error, Result};

/// How a prompt is put to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// Its bare text, continued by the model.
    Raw,
    /// As the user's last turn of a chat, in the model's chat template, answered by the assistant.
    Chat,
}

/// A prompt as a candidate gets it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalPrompt<'a> {
    /// The messages before it; none with [`PromptForm::Raw`].
    pub history: &'a [Message],
    /// The text, without a template.
    pub text: &'a str,
    /// Whether the candidate puts the template around it.
    pub form: PromptForm,
}

impl<'a> EvalPrompt<'a> {
    fn of(example: &'a Example, form: PromptForm) -> Self {
        EvalPrompt { history: &example.history, text: &example.prompt, form }
    }
}

/// What a candidate made of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The new text alone, without template tokens.
    pub text: String,
    /// Tokens generated, the end token included if there was one.
    pub tokens: usize,
    /// From the call to the last token, on the caller's clock.
    pub seconds: f64,
}

/// A text whose loss is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossText<'a> {
    /// The loss of `answer` (and the end of the turn, in a chat) given `prompt`; the tokens of the
    /// prompt and of the template do not count.
    Answer {
        /// What comes before.
        prompt: EvalPrompt<'a>,
        /// What counts.
        answer: &'a str,
    },
    /// The loss of every token of a text but the first.
    Whole(&'a str),
}

/// The loss of some tokens, kept as a sum so that texts of unequal length can be added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LossSum {
    /// Negative log-likelihoods added up, nats.
    pub sum_nll: f64,
    /// Tokens that counted.
    pub tokens: u64,
}

/// A model that can be evaluated, with or without an adapter. Decoding is greedy.
///
/// The futures need not be `Send`: in a page everything runs on one thread.
pub trait Candidate {
    /// The name in the report, different from every other candidate's.
    fn name(&self) -> &str;

    /// Completes `prompt` greedily with at most `max_new_tokens` tokens.
    fn complete(
        &mut self,
        prompt: &EvalPrompt<'_>,
        max_new_tokens: usize,
    ) -> impl Future<Output = Result<Completion>>;

    /// The loss of `text`.
    fn loss(&mut self, text: &LossText<'_>) -> impl Future<Output = Result<LossSum>>;
}

/// What is asked of each candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvalConfig {
    /// How to ask and to judge.
    pub protocol: Protocol,
    /// Longest answer, tokens.
    pub max_new_tokens: usize,
    /// How often each prompt is completed. The first answer is judged; from 2 on, the report says
    /// how many examples got the same answer each time.
    pub runs: usize,
    /// Whether to compute the loss of the expected answers too.
    pub loss: bool,
}

impl Default for EvalConfig {
    /// The honest protocol, 50 tokens, one run, with the loss.
    fn default() -> Self {
        EvalConfig { protocol: Protocol::Honest, max_new_tokens: 50, runs: 1, loss: true }
    }
}

/// What is evaluated, on what and where: the part of a report that no candidate can tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// The base model's name.
    pub model: String,
    /// The examples' origin.
    pub dataset: DatasetInfo,
    /// The machine.
    pub environment: Environment,
}

/// What a candidate is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Completing prompts.
    Complete,
    /// Computing losses.
    Loss,
}

/// How far an evaluation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The candidate's name.
    pub candidate: &'a str,
    /// What it is doing.
    pub phase: Phase,
    /// Completions or losses done in this phase, from 0 to `total`.
    pub done: usize,
    /// Completions or losses of this phase.
    pub total: usize,
}

/// Called before the first and after every completion and loss; [`ControlFlow::Break`] ends the
/// evaluation with [`Error::Cancelled`].
pub type OnProgress<'a> = &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>;

/// New tokens of the completion that each candidate does first, unmeasured: the first use of a
/// model compiles its pipelines, which is no part of its latency.
const WARM_UP_TOKENS: usize = 2;

/// Evaluates `candidates` one after another on `examples` and compares every two of them.
///
/// # Errors
/// [`Error::Invalid`] if there is no candidate or example, two candidates share a name, an expected
/// answer is blank, or a prompt of the original protocol follows other messages; [`Error::Cancelled`] if `on_progress` says so; and what a candidate
/// fails with.
pub async fn evaluate<C: Candidate>(
    candidates: &mut [C],
    examples: &[Example],
    config: &EvalConfig,
    subject: Subject,
    on_progress: OnProgress<'_>,
) -> Result<Report> {
    let names = candidates.iter().map(Candidate::name).collect::<Vec<_>>();
    check_names(&names)?;
    let mut reports = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        reports.push(evaluate_candidate(candidate, examples, config, on_progress).await?);
    }
    Report::new(subject, config, reports)
}

/// Evaluates one candidate: for a caller whose candidates are of different types, or don't fit in
/// memory together. [`Report::new`] puts the results together.
///
/// # Errors
/// As [`evaluate`].
pub async fn evaluate_candidate<C: Candidate>(
    candidate: &mut C,
    examples: &[Example],
    config: &EvalConfig,
    on_progress: OnProgress<'_>,
) -> Result<CandidateReport> {
    check(examples, config)?;
    let form = config.protocol.form();
    let name = candidate.name().to_owned();
    let total = examples
        .len()
        .checked_mul(config.runs)
        .ok_or_else(|| Error::invalid("too many runs of too many examples: ask for fewer"))?;
    let mut tick = |phase, done, total| match on_progress(&Progress {
        candidate: &name,
        phase,
        done,
        total,
    }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    };

    tick(Phase::Complete, 0, total)?;
    let first = EvalPrompt::of(&examples[0], form);
    candidate.complete(&first, WARM_UP_TOKENS.min(config.max_new_tokens)).await?;

    let mut outputs = Vec::with_capacity(examples.len());
    let mut seconds = Vec::with_capacity(total);
    let mut tokens = 0_usize;
    for example in examples {
        let prompt = EvalPrompt::of(example, form);
        let mut output: Option<ExampleOutput> = None;
        for _ in 0..config.runs {
            let completion = candidate.complete(&prompt, config.max_new_tokens).await?;
            if !completion.seconds.is_finite() || completion.seconds < 0.0 {
                return Err(Error::invalid(format!(
                    "{name}: a completion took {} seconds: the clock passed in is at fault",
                    completion.seconds
                )));
            }
            seconds.push(completion.seconds);
            tokens = tokens.saturating_add(completion.tokens);
            tick(Phase::Complete, seconds.len(), total)?;
            match &mut output {
                Some(first) => first.consistent &= first.actual == completion.text,
                None => output = Some(judged(example, config.protocol, completion)),
            }
        }
        outputs.extend(output);
    }

    let mut losses = Vec::new();
    if config.loss {
        let texts: Vec<_> = examples
            .iter()
            .map(|example| LossText::Answer {
                prompt: EvalPrompt::of(example, form),
                answer: &example.expected,
            })
            .collect();
        losses = losses_of(candidate, &texts, on_progress).await?;
    }
    Ok(candidate_report(name, config, outputs, Parts { seconds, tokens, losses }))
}

/// What all figures of a candidate follow from, put together.
pub(super) fn candidate_report(
    name: String,
    config: &EvalConfig,
    outputs: Vec<ExampleOutput>,
    parts: Parts,
) -> CandidateReport {
    CandidateReport {
        name,
        overall: score(&outputs),
        per_category: per_category(&outputs),
        cut_off: outputs.iter().filter(|output| output.tokens >= config.max_new_tokens).count(),
        consistency: (config.runs > 1).then(|| Consistency {
            runs: config.runs,
            consistent: outputs.iter().filter(|output| output.consistent).count(),
        }),
        loss: Loss::of(sum_of(&parts.losses)),
        latency: Latency::of(&parts.seconds, parts.tokens),
        outputs,
        parts: Some(parts),
    }
}

/// The loss of `candidate` over `texts`, weighted by token: for a report, or for a file of plain
/// text. None if no token counted.
///
/// # Errors
/// [`Error::Invalid`] if a loss is not a finite number; [`Error::Cancelled`] if `on_progress` says
/// so; and what the candidate fails with.
pub async fn loss_over<C: Candidate>(
    candidate: &mut C,
    texts: &[LossText<'_>],
    on_progress: OnProgress<'_>,
) -> Result<Option<Loss>> {
    Ok(Loss::of(sum_of(&losses_of(candidate, texts, on_progress).await?)))
}

fn sum_of(losses: &[LossSum]) -> LossSum {
    let add = |sum: LossSum, part: &LossSum| LossSum {
        sum_nll: sum.sum_nll + part.sum_nll,
        tokens: sum.tokens.saturating_add(part.tokens),
    };
    losses.iter().fold(LossSum::default(), add)
}

async fn losses_of<C: Candidate>(
    candidate: &mut C,
    texts: &[LossText<'_>],
    on_progress: OnProgress<'_>,
) -> Result<Vec<LossSum>> {
    let mut losses = Vec::with_capacity(texts.len());
    for (done, text) in texts.iter().enumerate() {
        let part = candidate.loss(text).await?;
        if !part.sum_nll.is_finite() {
            return Err(Error::invalid(format!(
                "{}: the loss of text {} is {}: the weights or the adapter hold numbers that are \
                 not finite",
                candidate.name(),
                done + 1,
                part.sum_nll
            )));
        }
        losses.push(part);
        let progress = Progress {
            candidate: candidate.name(),
            phase: Phase::Loss,
            done: done + 1,
            total: texts.len(),
        };
        if on_progress(&progress).is_break() {
            return Err(Error::Cancelled);
        }
    }
    Ok(losses)
}

fn judged(example: &Example, protocol: Protocol, completion: Completion) -> ExampleOutput {
    let judgement = protocol.judge(&example.expected, &completion.text);
    ExampleOutput {
        category: example.category.clone(),
        prompt: example.prompt.clone(),
        expected: example.expected.clone(),
        actual: completion.text,
        correct: judgement.correct,
        partial: judgement.partial,
        tokens: completion.tokens,
        consistent: true,
    }
}

fn score<'a>(outputs: impl IntoIterator<Item = &'a ExampleOutput>) -> Score {
    Score::of(outputs.into_iter().map(ExampleOutput::judgement))
}

/// Scores by category, in the order of the names.
fn per_category(outputs: &[ExampleOutput]) -> Vec<CategoryScore> {
    let mut groups = BTreeMap::<&str, Vec<&ExampleOutput>>::new();
    for output in outputs {
        groups.entry(&output.category).or_default().push(output);
    }
    groups
        .into_iter()
        .map(|(category, outputs)| CategoryScore {
            category: category.to_owned(),
            score: score(outputs),
        })
        .collect()
}

fn check(examples: &[Example], config: &EvalConfig) -> Result<()> {
    if examples.is_empty() {
        return Err(Error::invalid("there is no example to evaluate on"));
    }
    if config.runs == 0 || config.max_new_tokens == 0 {
        return Err(Error::invalid("an evaluation needs at least one run and one new token"));
    }
    let with_history = examples.iter().position(|example| !example.history.is_empty());
    if let (PromptForm::Raw, Some(i)) = (config.protocol.form(), with_history) {
        return Err(Error::invalid(format!(
            "example {}: the original protocol asks a bare prompt, and this one follows other \
             messages: use the honest protocol",
            i + 1
        )));
    }
    match examples.iter().position(|example| strip(&example.expected).is_empty()) {
        Some(i) => Err(Error::invalid(format!(
            "example {}: the expected answer is blank, so that every answer would count as right",
            i + 1
        ))),
        None => Ok(()),
    }
}

/// Names tell the candidates of a report apart: refuses no name, and one twice.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_names(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Err(Error::invalid("there is no candidate to evaluate"));
    }
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            return Err(Error::invalid(format!(
                "two candidates are called {name}: give each a name of its own"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    // Nothing here waits, so that a page may do so too.
    use pollster::block_on;

    use super::*;
    use crate::eval::fixtures::{Fake, examples, subject};
    use crate::testing::test;

    fn go_on(_: &Progress<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn run(candidates: &mut [Fake], config: &EvalConfig) -> Result<Report> {
        block_on(evaluate(candidates, &examples(), config, subject(), &mut go_on))
    }

    #[test]
    fn every_candidate_is_asked_and_judged() {
        let mut candidates = [Fake::base(), Fake::tuned()];
        let report = run(&mut candidates, &EvalConfig::default()).unwrap();
        let [base, tuned] = &report.candidates[..] else { panic!("two candidates") };
        assert_eq!((base.overall.correct, base.overall.partial, base.overall.n), (1, 3, 4));
        assert_eq!(tuned.overall.correct, 2);
        assert_eq!(tuned.outputs[3].actual, "Bonn");
        let by_category: Vec<_> =
            tuned.per_category.iter().map(|c| (c.category.as_str(), c.score.correct)).collect();
        assert_eq!(by_category, [("capitals", 1), ("sums", 1)]);
        let comparison = &report.comparisons[0];
        assert_eq!((comparison.both, comparison.only_first), (1, 0));
        assert_eq!((comparison.only_second, comparison.neither), (1, 2));
        assert_eq!(comparison.p_value, 1.0);
        assert_eq!(report.dataset.examples, 4);
        // One warm-up and four answers each, in the chat form.
        assert_eq!(candidates[0].asked.len(), 5);
        assert!(candidates[0].asked.iter().all(|(form, _)| *form == PromptForm::Chat));
        assert_eq!(candidates[0].asked[0].1, WARM_UP_TOKENS);
        assert_eq!(base.latency.unwrap().n, 4);
    }

    #[test]
    fn the_original_protocol_asks_bare_and_takes_a_prefix() {
        let config = EvalConfig { protocol: Protocol::Original, ..EvalConfig::default() };
        let mut candidates = [Fake::base()];
        let report = run(&mut candidates, &config).unwrap();
        assert_eq!(report.candidates[0].overall.correct, 2);
        assert!(candidates[0].asked.iter().all(|(form, _)| *form == PromptForm::Raw));
        assert!(report.comparisons.is_empty());
    }

    #[test]
    fn the_loss_is_weighted_by_token() {
        let report = run(&mut [Fake::base()], &EvalConfig::default()).unwrap();
        // Each answer of k bytes counts k tokens of loss k: Σ k² / Σ k over 5, 6, 1, 2, to 4 decimals.
        let loss = report.candidates[0].loss.unwrap();
        assert_eq!((loss.tokens, loss.mean), (14, 4.7143));
        assert_eq!(loss.perplexity, Some(111.5307));
        let without = EvalConfig { loss: false, ..EvalConfig::default() };
        assert_eq!(run(&mut [Fake::base()], &without).unwrap().candidates[0].loss, None);
    }

    #[test]
    fn repeated_runs_show_what_wavers() {
        let config = EvalConfig { runs: 3, ..EvalConfig::default() };
        let mut wavering = Fake::base();
        wavering.wavers_on = Some("2+2=");
        let report = run(&mut [wavering, Fake::tuned()], &config).unwrap();
        let consistency = |i: usize| report.candidates[i].consistency.unwrap();
        assert_eq!(consistency(0), Consistency { runs: 3, consistent: 3 });
        assert_eq!(consistency(1), Consistency { runs: 3, consistent: 4 });
        assert!(!report.candidates[0].outputs[2].consistent);
        assert_eq!(report.candidates[0].latency.unwrap().n, 12);
    }

    #[test]
    fn answers_at_the_limit_are_counted() {
        let config = EvalConfig { max_new_tokens: 4, ..EvalConfig::default() };
        // The fake's tokens are bytes: only "Paris" and "It is Madrid." reach four.
        assert_eq!(run(&mut [Fake::base()], &config).unwrap().candidates[0].cut_off, 2);
    }

    #[test]
    fn progress_counts_up_and_can_stop_at_any_point() {
        let config = EvalConfig { runs: 2, ..EvalConfig::default() };
        let mut seen = Vec::new();
        let mut note = |p: &Progress<'_>| {
            seen.push((p.phase, p.done, p.total));
            ControlFlow::Continue(())
        };
        block_on(evaluate(&mut [Fake::base()], &examples(), &config, subject(), &mut note))
            .unwrap();
        let mut expected: Vec<_> = (0..=8).map(|done| (Phase::Complete, done, 8)).collect();
        expected.extend((1..=4).map(|done| (Phase::Loss, done, 4)));
        assert_eq!(seen, expected);

        for stop in 0..seen.len() {
            let mut left = stop;
            let mut stopping = |_: &Progress<'_>| match left {
                0 => ControlFlow::Break(()),
                _ => {
                    left -= 1;
                    ControlFlow::Continue(())
                }
            };
            let mut candidates = [Fake::base()];
            let examples = examples();
            let result = evaluate(&mut candidates, &examples, &config, subject(), &mut stopping);
            assert!(matches!(block_on(result), Err(Error::Cancelled)), "stop at {stop}");
        }
    }

    #[test]
    fn plain_text_has_a_loss_too() {
        let loss = block_on(loss_over(&mut Fake::base(), &[LossText::Whole("abc")], &mut go_on));
        assert_eq!(loss.unwrap().unwrap().tokens, 3);
        let empty = block_on(loss_over(&mut Fake::base(), &[LossText::Whole("")], &mut go_on));
        assert_eq!(empty.unwrap(), None);
    }

    #[test]
    fn what_cannot_be_evaluated_is_refused() {
        let refused =
            |candidates: &mut [Fake], examples: &[Example], config: &EvalConfig| match block_on(
                evaluate(candidates, examples, config, subject(), &mut go_on),
            ) {
                Err(Error::Invalid(problem)) => problem,
                other => panic!("{other:?}"),
            };
        let config = EvalConfig::default();
        let mut twice = [Fake::base(), Fake::base()];
        assert!(refused(&mut [], &examples(), &config).contains("no candidate"));
        assert!(refused(&mut twice, &examples(), &config).contains("two candidates"));
        assert!(refused(&mut [Fake::base()], &[], &config).contains("no example"));
        let mut blank = examples();
        blank[1].expected = " \n".into();
        assert!(refused(&mut [Fake::base()], &blank, &config).contains("example 2"));
        let mut later = examples();
        later[2].history.push(Message::new("system", "Be brief."));
        let original = EvalConfig { protocol: Protocol::Original, ..config };
        assert!(refused(&mut [Fake::base()], &later, &original).contains("example 3"));
        let never = EvalConfig { runs: 0, ..config };
        assert!(refused(&mut [Fake::base()], &examples(), &never).contains("one run"));
        let mut backwards = Fake::base();
        backwards.seconds = -1.0;
        assert!(refused(&mut [backwards], &examples(), &config).contains("clock"));
        let mut broken = Fake::base();
        broken.nll = f64::NAN;
        assert!(refused(&mut [broken], &examples(), &config).contains("loss of text 1"));
    }
}
