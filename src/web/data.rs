//! Patterns and examples.

use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;

use super::engine::WasmEngine;
use super::trainer::Settings;
use super::value::{from_js, json, to_js};
use crate::data::augment;
use crate::data::file::RecordFile;
use crate::data::jsonl::{self, Record};
use crate::data::overview;
use crate::data::patterns::{self, BUNDLED, Pattern};
use crate::data::record::Features;
use crate::data::split::{self, Protocol, SplitConfig};
use crate::data::tokens;
use crate::generate::Engine;
use crate::{Error, Result};

/// `Pattern` of the contract.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    input: String,
    output: String,
    category: String,
}

impl From<Pattern> for Row {
    fn from(Pattern { input, output, category, .. }: Pattern) -> Self {
        Self { input, output, category }
    }
}

#[derive(Serialize)]
struct Problem {
    row: usize,
    message: String,
}

fn rows(patterns: Vec<Pattern>) -> Result<JsValue> {
    to_js(&patterns.into_iter().map(Row::from).collect::<Vec<_>>())
}

/// The rows as patterns; an error names the row.
fn checked(rows: Vec<Row>) -> Result<Vec<Pattern>> {
    if let Some(Problem { row, message }) = problems(&rows).into_iter().next() {
        return Err(Error::data("patterns", row, message));
    }
    let pattern = |Row { input, output, category }| Pattern::new(input, output, category);
    rows.into_iter().map(pattern).collect::<Result<_, _>>().map_err(Error::Invalid)
}

/// Every row that is no pattern, and inputs that repeat.
fn problems(rows: &[Row]) -> Vec<Problem> {
    let mut seen = std::collections::HashMap::new();
    let mut problems = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let number = i + 1;
        let Row { input, output, category } = row.clone();
        let message = match Pattern::new(input, output, category) {
            Err(problem) => problem,
            Ok(_) => match seen.insert(&row.input, number) {
                Some(first) => format!("input {:?} is already in row {first}", row.input),
                None => continue,
            },
        };
        problems.push(Problem { row: number, message });
    }
    problems
}

/// `bundledPatterns` of the contract.
#[wasm_bindgen(js_name = bundledPatterns)]
pub fn bundled_patterns() -> Result<JsValue, JsValue> {
    Ok(rows(patterns::read(&BUNDLED)?)?)
}

/// `parsePatterns` of the contract.
#[wasm_bindgen(js_name = parsePatterns)]
pub fn parse_patterns(name: &str, text: &str) -> Result<JsValue, JsValue> {
    Ok(rows(patterns::read(&[(name, text.as_bytes())])?)?)
}

/// `formatPatterns` of the contract.
#[wasm_bindgen(js_name = formatPatterns)]
pub fn format_patterns(patterns: JsValue) -> Result<String, JsValue> {
    let patterns = checked(from_js("patterns", patterns)?)?;
    Ok(patterns::to_yaml(&patterns))
}

/// `checkPatterns` of the contract.
#[wasm_bindgen(js_name = checkPatterns)]
pub fn check_patterns(patterns: JsValue) -> Result<JsValue, JsValue> {
    Ok(to_js(&problems(&from_js::<Vec<Row>>("patterns", patterns)?))?)
}

/// `augmentPattern` of the contract.
#[wasm_bindgen(js_name = augmentPattern)]
pub fn augment_pattern(pattern: JsValue) -> Result<JsValue, JsValue> {
    let patterns = checked(vec![from_js("pattern", pattern)?])?;
    Ok(to_js(&patterns.iter().flat_map(augment::inputs).collect::<Vec<_>>())?)
}

/// `parseExamples` of the contract.
#[wasm_bindgen(js_name = parseExamples)]
pub fn parse_examples(name: &str, text: &str) -> Result<js_sys::Array, JsValue> {
    let file = RecordFile::parse(name, text.as_bytes(), &Features::default())?;
    Ok(to_array(&file.records)?)
}

/// `SplitConfig` of the contract.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SplitOptions {
    protocol: Option<String>,
    seed: Option<u64>,
    valid_fraction: Option<f64>,
    test_per_category: Option<usize>,
    held_out_fraction: Option<f64>,
}

impl SplitOptions {
    fn config(self) -> Result<SplitConfig> {
        let protocol = match self.protocol.as_deref() {
            None | Some("held-out") => Protocol::HeldOut,
            Some("original") => Protocol::Original,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "protocol is `{other}`; there are `held-out` and `original`"
                )));
            }
        };
        let default = SplitConfig::default();
        Ok(SplitConfig {
            protocol,
            seed: self.seed.unwrap_or(default.seed),
            valid_fraction: self.valid_fraction.unwrap_or(default.valid_fraction),
            test_per_category: self.test_per_category.unwrap_or(default.test_per_category),
            held_out_fraction: self.held_out_fraction.unwrap_or(default.held_out_fraction),
        })
    }
}

/// `splitPatterns` of the contract.
#[wasm_bindgen(js_name = splitPatterns)]
pub fn split_patterns(patterns: JsValue, config: JsValue) -> Result<JsValue, JsValue> {
    let patterns = checked(from_js("patterns", patterns)?)?;
    let options = match config.is_undefined() || config.is_null() {
        true => SplitOptions::default(),
        false => from_js("split settings", config)?,
    };
    let splits = split::build(&patterns, &options.config()?)?;
    let object = js_sys::Object::new();
    for (key, records) in
        [("train", &splits.train), ("valid", &splits.valid), ("test", &splits.test)]
    {
        js_sys::Reflect::set(&object, &key.into(), &to_array(records)?.into())?;
    }
    Ok(object.into())
}

#[wasm_bindgen]
impl WasmEngine {
    /// `dataStats` of the contract.
    #[wasm_bindgen(js_name = dataStats)]
    pub fn data_stats(&self, dataset: &JsValue, config: JsValue) -> Result<JsValue, JsValue> {
        let Settings { config, .. } = Settings::from_js(config)?;
        let engine = self.engine();
        let encoder: &Engine = &engine;
        let names = [overview::TRAIN, "valid", overview::TEST];
        let mut sets = Vec::new();
        for name in names {
            let given = js_sys::Reflect::get(dataset, &name.into()).unwrap_or_default();
            if !given.is_undefined() && !given.is_null() {
                sets.push((name, records(name, &js_sys::Array::from(&given))?));
            }
        }
        let counted = sets.iter().map(|(name, records)| {
            let examples = tokens::tokenize(name, records, encoder, config.loss_on())?;
            Ok(overview::Set { name, records: records.iter().collect(), examples })
        });
        let mut batches = config.batch_config();
        let most = engine.config().max_position_embeddings;
        batches.max_seq_length = batches.max_seq_length.min(most);
        Ok(to_js(&overview::overview(counted.collect::<Result<_>>()?, batches))?)
    }
}

/// Records as the objects of their lines.
fn to_array(records: &[Record]) -> Result<js_sys::Array> {
    let lines = jsonl::to_jsonl(records);
    let object = |line: &str| js_sys::JSON::parse(line).map_err(|_| Error::invalid("not JSON"));
    lines.lines().map(object).collect()
}

/// The caller's examples as records; `name` is what errors call them, with the example's number.
pub(super) fn records(name: &str, examples: &js_sys::Array) -> Result<Vec<Record>> {
    let mut lines = String::new();
    for example in examples.iter() {
        lines.push_str(&json(name, &example)?);
        lines.push('\n');
    }
    jsonl::parse(name, lines.as_bytes())
}
