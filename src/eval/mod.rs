//! One evaluation harness, the same natively and in a page.
//!
//! 1. A [`Candidate`] is a model, with or without an adapter, that completes prompts and gives
//!    losses; [`evaluate`] asks every candidate the same [`Example`]s under one [`Protocol`];
//! 2. [`metrics`] judges each answer and [`stats`] says what the counts can carry;
//! 3. the [`Report`] holds all of it, as JSON ([`Report::to_json`], described in
//!    `docs/report.md`), as Markdown ([`markdown::markdown`]) and as [`plots`].
//!
//! Nothing here but [`EngineCandidate`] knows a GPU, and nothing a file or a clock: candidates bring
//! their own seconds, and every figure is computed with the basic operations of IEEE 754 (rounded where it isn't), so that
//! equal outputs give an equal report on every target.

pub mod candidate;
pub mod examples;
#[cfg(test)]
mod fixtures;
pub mod harness;
pub mod markdown;
pub mod metrics;
pub mod plots;
pub mod report;
pub mod shard;
pub mod stats;

pub use candidate::EngineCandidate;
pub use examples::Example;
pub use harness::{
    Candidate, Completion, EvalConfig, EvalPrompt, LossSum, LossText, Phase, Progress, PromptForm,
    Subject, check_names, evaluate, evaluate_candidate, loss_over,
};
pub use metrics::Protocol;
pub use report::Report;
pub use shard::Shard;
