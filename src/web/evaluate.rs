//! An evaluation.

use std::ops::ControlFlow;

use js_sys::{Array, Function};
use serde::Deserialize;
use serde_json::json;
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use super::clock;
use super::data::records;
use super::engine::{WasmEngine, check_signal, is_aborted};
use super::sha256;
use super::value::{call, from_js, to_js};
use crate::data::jsonl::{self, Record};
use crate::eval::markdown::markdown;
use crate::eval::plots::plots;
use crate::eval::report::{DatasetInfo, Environment};
use crate::eval::{
    EngineCandidate, EvalConfig, Example, Phase, Progress, Protocol, Subject, evaluate,
};
use crate::{Error, Result};

#[derive(Deserialize)]
struct Candidate {
    name: String,
    adapter: Option<String>,
}

/// `EvalOptions` of the contract, without its functions.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Options {
    protocol: Option<String>,
    max_new_tokens: Option<usize>,
    runs: Option<usize>,
    loss: Option<bool>,
    dataset: Option<String>,
}

impl Options {
    fn config(&self) -> Result<EvalConfig> {
        let default = EvalConfig::default();
        Ok(EvalConfig {
            protocol: match self.protocol.as_deref() {
                None | Some("honest") => Protocol::Honest,
                Some("original") => Protocol::Original,
                Some(other) => {
                    return Err(Error::invalid(format!(
                        "protocol is `{other}`; there are `honest` and `original`"
                    )));
                }
            },
            max_new_tokens: self.max_new_tokens.unwrap_or(default.max_new_tokens),
            runs: self.runs.unwrap_or(default.runs),
            loss: self.loss.unwrap_or(default.loss),
        })
    }
}

/// An example in either form of the contract.
#[derive(Deserialize)]
struct Question {
    prompt: String,
    expected: String,
    category: Option<String>,
}

#[wasm_bindgen]
impl WasmEngine {
    /// `evaluate` of the contract; `trained_on` are the examples that the adapters were trained on,
    /// if that is known.
    pub async fn evaluate(
        &self,
        candidates: JsValue,
        examples: Array,
        trained_on: Option<Array>,
        options: JsValue,
        on_progress: Function,
        signal: Option<AbortSignal>,
    ) -> Result<JsValue, JsValue> {
        let candidates: Vec<Candidate> = from_js("candidates", candidates)?;
        let options: Options = from_js("evaluation settings", options)?;
        let config = options.config()?;
        let asked = questions(&examples)?;
        let examples = Example::from_records("examples", &asked)?;
        let seen_in_training = match trained_on {
            Some(trained) => Example::seen(&examples, &records("trained_on", &trained)?),
            None => None,
        };
        let dataset = DatasetInfo {
            sha256: Some(sha256::of(jsonl::to_jsonl(&asked).as_bytes())),
            seen_in_training,
            ..DatasetInfo::named(options.dataset.as_deref().unwrap_or("examples"))
        };
        let engine = self.engine();
        let backend = &engine.model().gpu()?.context.adapter().backend;
        let device = self.device_name();
        let environment = Environment::on(format!("{device} ({backend}), wgpu engine"));
        let subject = Subject { model: self.name().to_owned(), dataset, environment };
        let mut asked = Vec::with_capacity(candidates.len());
        for Candidate { name, adapter } in candidates {
            let adapter = self.adapter(adapter.as_deref())?;
            asked.push(EngineCandidate::new(name, &engine, adapter, &clock));
        }
        let mut tell = |progress: &Progress<'_>| {
            let phase = match progress.phase {
                Phase::Complete => "complete",
                Phase::Loss => "loss",
            };
            let told = to_js(&json!({
                "candidate": progress.candidate,
                "phase": phase,
                "done": progress.done,
                "total": progress.total,
            }));
            if let Ok(told) = told {
                call(&on_progress, &told);
            }
            match is_aborted(signal.as_ref()) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        check_signal(signal.as_ref())?;
        let report = evaluate(&mut asked, &examples, &config, subject, &mut tell).await?;
        let json = report.to_json()?;
        let result =
            to_js(&json!({ "markdown": markdown(&report, &plots(&report)), "json": json }))?;
        let parsed = js_sys::JSON::parse(&json)?;
        js_sys::Reflect::set(&result, &"report".into(), &parsed)?;
        Ok(result)
    }
}

/// The examples as records: `{ prompt, expected, category }`, or training examples.
fn questions(examples: &Array) -> Result<Vec<Record>> {
    let is_question = |value: &JsValue| js_sys::Reflect::has(value, &"expected".into());
    if !examples.iter().any(|value| is_question(&value).unwrap_or(false)) {
        return records("examples", examples);
    }
    let record = |(i, value): (usize, JsValue)| {
        let question = from_js("example", value);
        let question: Question =
            question.map_err(|error| Error::data("examples", i + 1, error.to_string()))?;
        let Question { prompt, expected, category } = question;
        Ok(Record::chat(&prompt, &expected, category.as_deref()))
    };
    examples.iter().enumerate().map(record).collect()
}
