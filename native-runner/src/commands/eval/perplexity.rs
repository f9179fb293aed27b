//! The loss over a file, as it is.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engram::data::record::{Body, Features};
use engram::eval::report::Loss;
use engram::eval::{
    Candidate as _, EngineCandidate, EvalPrompt, Example, LossText, PromptForm, loss_over,
};

use crate::dataset::{Place, is_data};
use crate::interrupt;
use crate::terminal::Terminal;

/// Texts, or questions with their answers, whose loss is asked for.
pub struct Texts {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    /// One text, which may be long.
    Plain(String),
    Records(Vec<String>),
    Answers(Vec<Example>),
}

impl Texts {
    /// Reads a data file if its name ends as one's, else one plain text.
    pub fn read(path: &Path, features: &Features, terminal: Terminal) -> Result<Self> {
        let name = path.display().to_string();
        let kind = if is_data(&name) {
            let file = Place::Local(path.to_owned()).read(features, terminal)?;
            match file.records[0].body {
                Body::Text(_) => Kind::Records(
                    file.records
                        .into_iter()
                        .filter_map(|record| match record.body {
                            Body::Text(text) => Some(text),
                            _ => None,
                        })
                        .collect(),
                ),
                _ => Kind::Answers(Example::from_file(&file)?),
            }
        } else {
            let text = std::fs::read_to_string(path).context(name)?;
            Kind::Plain(text)
        };
        Ok(Self { path: path.to_owned(), kind })
    }

    /// The loss of `candidate` over them; answers are asked for in `form`. None if no token
    /// counted.
    pub async fn loss(
        &self,
        candidate: &mut EngineCandidate<'_>,
        form: PromptForm,
        terminal: Terminal,
    ) -> Result<Option<Loss>> {
        let (name, path) = (candidate.name().to_owned(), self.path.display());
        let mut meter = None;
        let mut tick = |done: usize, total: usize| {
            let meter = meter.get_or_insert_with(|| terminal.steps(total));
            meter.set(done, format_args!("{name}, {path}"));
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let texts: Vec<LossText<'_>> = match &self.kind {
            Kind::Plain(text) => {
                let mut on_window = |done, total| tick(done, total);
                return Ok(Loss::of(candidate.text_loss(text, &mut on_window).await?));
            }
            Kind::Records(texts) => texts.iter().map(|text| LossText::Whole(text)).collect(),
            Kind::Answers(examples) => examples
                .iter()
                .map(|example| LossText::Answer {
                    prompt: EvalPrompt { history: &example.history, text: &example.prompt, form },
                    answer: &example.expected,
                })
                .collect(),
        };
        let mut on_progress =
            |progress: &engram::eval::Progress<'_>| tick(progress.done, progress.total);
        Ok(loss_over(candidate, &texts, &mut on_progress).await?)
    }
}
