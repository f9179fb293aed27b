//! A training, one step a call.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use js_sys::Array;
use serde_json::{Map, Value, json};
use wasm_bindgen::prelude::*;

use super::clock;
use super::data::records;
use super::engine::{WasmEngine, adapter_files};
use super::value::{from_js, to_js};
use crate::data::batch::BatchSet;
use crate::data::tokens;
use crate::generate::{Engine, GpuModel};
use crate::gpu::Context;
use crate::model::AdapterTensors;
use crate::train::{Event, Learner, TrainConfig, Trainer};
use crate::{Error, Result};

/// A LoRA training on the engine's device.
///
/// Calls must not overlap with one another or with the engine's.
#[wasm_bindgen]
pub struct WasmTrainer {
    engine: Rc<Engine>,
    model: String,
    /// Taken out while it works.
    trainer: RefCell<Option<Trainer>>,
    context: Context,
    config: TrainConfig,
    count: usize,
    /// The adapter at the lowest validation loss: on the host, where a lost device can't take it.
    best: RefCell<Option<AdapterTensors>>,
    time: Cell<Time>,
}

/// What was done in how long.
#[derive(Debug, Clone, Copy, Default)]
struct Time {
    iterations: usize,
    seconds: f64,
    interval_iterations: usize,
    interval_seconds: f64,
    interval_tokens: usize,
}

#[wasm_bindgen]
impl WasmEngine {
    /// Prepares a training of `config` on `{ train, valid }`.
    #[wasm_bindgen(js_name = createTrainer)]
    pub async fn create_trainer(
        &self,
        dataset: JsValue,
        config: JsValue,
    ) -> Result<WasmTrainer, JsValue> {
        let Settings { config, epochs } = Settings::from_js(config)?;
        let engine = self.engine();
        let GpuModel { context, llama } = engine.model().gpu()?;
        config.check_model(&llama.config)?;
        let (train, valid) = batches(&dataset, &engine, &config)?;
        let config = for_epochs(config, epochs, &train)?;
        let initial = config.initial_adapter(&llama.config)?;
        context.memory().reset_peak();
        let trainer = Trainer::new(context, llama, &initial, train, valid, &config)?;
        Ok(WasmTrainer {
            model: self.name().to_owned(),
            count: trainer.learner().parameter_count(),
            trainer: RefCell::new(Some(trainer)),
            best: RefCell::default(),
            time: Cell::default(),
            context: context.clone(),
            engine: engine.clone(),
            config,
        })
    }
}

#[wasm_bindgen]
impl WasmTrainer {
    /// Every setting.
    #[wasm_bindgen(getter)]
    pub fn config(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.config)?)
    }

    /// Numbers trained.
    #[wasm_bindgen(getter, js_name = trainableParameters)]
    pub fn trainable_parameters(&self) -> usize {
        self.count
    }

    /// Does the next step and tells of it (`TrainStep` of the contract); undefined after the last.
    pub async fn advance(&self) -> Result<JsValue, JsValue> {
        let mut trainer = self.take()?;
        let began = clock();
        let event = trainer.advance().await;
        let seconds = clock() - began;
        let best = matches!(event, Ok(Some(Event::Validated { best: true, .. })));
        let tensors = if best { Some(trainer.adapter_tensors().await) } else { None };
        *self.trainer.borrow_mut() = Some(trainer);
        if let Some(tensors) = tensors.transpose()? {
            *self.best.borrow_mut() = Some(tensors);
        }
        match event? {
            Some(event) => Ok(to_js(&self.step(event, seconds))?),
            None => Ok(JsValue::UNDEFINED),
        }
    }

    /// The adapter's files.
    #[wasm_bindgen(js_name = exportAdapter)]
    pub async fn export_adapter(
        &self,
        format: String,
        checkpoint: String,
    ) -> Result<Array, JsValue> {
        let tensors = match checkpoint.as_str() {
            "best" => self.best.borrow().clone().ok_or_else(|| {
                Error::invalid("nothing was validated, so that no checkpoint is the best")
            })?,
            "last" => {
                let trainer = self.take()?;
                let tensors = trainer.adapter_tensors().await;
                *self.trainer.borrow_mut() = Some(trainer);
                tensors?
            }
            other => {
                let problem = format!("checkpoint is `{other}`; there are last and best");
                return Err(Error::invalid(problem).into());
            }
        };
        let arguments = match serde_json::to_value(&self.config) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let config = self.engine.config();
        Ok(adapter_files(&tensors, config, &self.model, &format, arguments)?)
    }
}

impl WasmTrainer {
    fn take(&self) -> Result<Trainer> {
        self.trainer
            .borrow_mut()
            .take()
            .ok_or_else(|| Error::invalid("the training is busy: wait for its last call"))
    }

    fn step(&self, event: Event, seconds: f64) -> Value {
        let mut time = self.time.get();
        if let Event::Stepped { tokens, .. } | Event::Reported { tokens, .. } = event {
            time.iterations += 1;
            time.seconds += seconds;
            time.interval_iterations += 1;
            time.interval_seconds += seconds;
            time.interval_tokens += tokens;
        }
        let done = match event {
            Event::Validated { iteration, .. } => iteration - 1,
            Event::Stepped { iteration, .. } | Event::Reported { iteration, .. } => iteration,
        };
        let pace = (time.iterations > 0).then(|| time.seconds / time.iterations as f64);
        let mut step = json!({
            "iterations": self.config.iters,
            "seconds": time.seconds,
            "etaSeconds": pace.map(|pace| pace * (self.config.iters - done) as f64),
            "gpuMemory": self.context.memory().now(),
        });
        let more = match event {
            Event::Validated { iteration, loss, best } => {
                json!({ "kind": "validation", "iteration": iteration, "loss": loss, "best": best })
            }
            Event::Stepped { iteration, tokens } => {
                json!({ "kind": "step", "iteration": iteration, "tokens": tokens })
            }
            Event::Reported { iteration, tokens, loss, gradient_norm, trained_tokens } => {
                let interval = time;
                let rate = |count: usize| count as f64 / interval.interval_seconds.max(1e-9);
                time =
                    Time { iterations: time.iterations, seconds: time.seconds, ..Time::default() };
                json!({
                    "kind": "report",
                    "iteration": iteration,
                    "tokens": tokens,
                    "loss": loss,
                    "gradientNorm": gradient_norm,
                    "trainedTokens": trained_tokens,
                    "iterationsPerSecond": rate(interval.interval_iterations),
                    "tokensPerSecond": rate(interval.interval_tokens),
                })
            }
        };
        if let (Value::Object(step), Value::Object(more)) = (&mut step, more) {
            step.extend(more);
        }
        self.time.set(time);
        step
    }
}

/// The batches of `{ train, valid }`; the latter may be left out.
pub(super) fn batches(
    dataset: &JsValue,
    engine: &Engine,
    config: &TrainConfig,
) -> Result<(BatchSet, Option<BatchSet>)> {
    let set = |name: &str| -> Result<Option<BatchSet>> {
        let examples = js_sys::Reflect::get(dataset, &name.into()).unwrap_or_default();
        if examples.is_undefined() || examples.is_null() {
            return Ok(None);
        }
        let examples = Array::from(&examples);
        if examples.length() == 0 && name == "valid" {
            return Ok(None);
        }
        let records = records(name, &examples)?;
        let examples = tokens::tokenize(name, &records, engine, config.loss_on())?;
        Ok(Some(BatchSet::new(examples, config.batch_config())?))
    };
    let train = set("train")?.ok_or_else(|| Error::invalid("the data set has no `train`"))?;
    let valid = if config.val_batches == 0 { None } else { set("valid")? };
    Ok((train, valid))
}

/// `TrainConfig` of the contract.
pub(super) struct Settings {
    pub config: TrainConfig,
    /// How many passes over the data, if that was given in the place of `iters`.
    pub epochs: Option<usize>,
}

impl Settings {
    /// The defaults with the caller's settings over them, checked.
    pub fn from_js(config: JsValue) -> Result<Self> {
        let mut settings = match serde_json::to_value(TrainConfig::default()) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let mut given: Map<String, Value> = match config.is_undefined() || config.is_null() {
            true => Map::new(),
            false => from_js("training settings", config)?,
        };
        let problem = |error| Error::invalid(format!("training settings: {error}"));
        let epochs = given.remove("epochs").map(serde_json::from_value).transpose();
        let epochs: Option<usize> = epochs.map_err(problem)?;
        if epochs.is_some() && given.contains_key("iters") {
            return Err(Error::invalid("`iters` and `epochs` both say how long; give one of them"));
        }
        for (key, value) in given {
            match settings.get_mut(&key) {
                Some(setting) => *setting = value,
                None => {
                    return Err(Error::invalid(format!("`{key}` is no setting of a training")));
                }
            }
        }
        let config: TrainConfig =
            serde_json::from_value(Value::Object(settings)).map_err(problem)?;
        config.check()?;
        Ok(Self { config, epochs })
    }
}

/// The settings of a training on `train`, which are its passes if they were counted.
pub(super) fn for_epochs(
    config: TrainConfig,
    epochs: Option<usize>,
    train: &BatchSet,
) -> Result<TrainConfig> {
    let Some(epochs) = epochs else { return Ok(config) };
    Ok(TrainConfig { iters: TrainConfig::iters_of(epochs, train.batches())?, ..config })
}
