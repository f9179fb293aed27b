//! Throughput of an evaluation.

use std::ops::ControlFlow;

use super::{Bench, Figure};
use crate::Result;
use crate::data::patterns;
use crate::eval::report::{DatasetInfo, Environment};
use crate::eval::{EngineCandidate, EvalConfig, Example, Progress, Protocol, Subject, evaluate};

/// Questions of a run.
const QUESTIONS: usize = 4;

impl Bench<'_> {
    /// Questions/s of the original protocol with 16 new tokens, and of the honest one with the loss.
    pub async fn evaluation(&self) -> Result<Vec<Figure>> {
        let patterns = patterns::read(&patterns::BUNDLED)?;
        let step = (patterns.len() / QUESTIONS).max(1);
        let examples: Vec<Example> = patterns
            .iter()
            .step_by(step)
            .take(QUESTIONS)
            .map(|p| Example::new(&p.input, &p.output, &p.category))
            .collect();
        let mut figures = Vec::new();
        for (name, protocol) in [("original", Protocol::Original), ("honest", Protocol::Honest)] {
            let config = EvalConfig { protocol, max_new_tokens: 16, ..EvalConfig::default() };
            let mut candidates = [EngineCandidate::new("base", self.engine, None, self.clock)];
            let once = async || {
                let subject = Subject {
                    model: String::new(),
                    dataset: DatasetInfo::named("patterns"),
                    environment: Environment::on(String::new()),
                };
                let began = (self.clock)();
                let mut ignore = |_: &Progress<'_>| ControlFlow::Continue(());
                evaluate(&mut candidates, &examples, &config, subject, &mut ignore).await?;
                Ok(examples.len() as f64 / ((self.clock)() - began))
            };
            let name = format!("evaluation, {name}");
            figures.push(self.take(name, "questions/s", once).await?);
        }
        Ok(figures)
    }
}
