//! Measuring a loaded model.

use serde::Deserialize;
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use super::clock;
use super::engine::{WasmEngine, check_signal};
use super::value::{from_js, to_js};
use crate::bench::Bench;
use crate::{Error, Result};

/// Texts of a training step whose length is given.
const BATCH: usize = 4;

/// `BenchOptions` of the contract, without its signal.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Options {
    runs: Option<u32>,
    lengths: Option<Vec<usize>>,
    tokens: Option<usize>,
}

#[wasm_bindgen]
impl WasmEngine {
    /// `bench` of the contract.
    pub async fn bench(
        &self,
        what: &str,
        options: JsValue,
        signal: Option<AbortSignal>,
    ) -> Result<JsValue, JsValue> {
        let options: Options = from_js("bench settings", options)?;
        let engine = self.engine();
        let tokens = options.tokens.unwrap_or(64);
        let lengths = |default| options.lengths.clone().unwrap_or_else(|| Vec::from(default));
        let proceed = |_: &str| check_signal(signal.as_ref());
        let runs = options.runs.unwrap_or(3);
        let bench = Bench { engine: &engine, runs, clock: &clock, proceed: &proceed };
        let figures = match what {
            "first" => bench.first_token().await,
            "prefill" => bench.prefill(&lengths([128, 512])).await,
            "generate" => bench.decode(tokens, &lengths([128, 1024])).await,
            "host" => bench.host().await,
            "train" => train(&bench, &options.lengths.clone().unwrap_or_else(|| vec![512])).await,
            "evaluate" => bench.evaluation().await,
            "inferena" => bench.inferena().await,
            "scaling" => bench.scaling().await,
            other => Err(Error::invalid(format!(
                "`{other}` can't be measured; there are first, prefill, generate, host, train, \
                 evaluate, inferena and scaling"
            ))),
        };
        Ok(to_js(&figures?)?)
    }
}

async fn train(bench: &Bench<'_>, lengths: &[usize]) -> Result<Vec<crate::bench::Figure>> {
    let mut figures = bench.train().await?;
    for &length in lengths {
        figures.extend(bench.train_on(BATCH, length).await?);
    }
    Ok(figures)
}
