//! Training by burn on the GPU, in builds with the feature `burn-wgpu`.

use std::rc::Rc;

use js_sys::{Array, Reflect};
use serde::Serialize;
use serde_json::{Map, Value};
use wasm_bindgen::prelude::*;

use super::blob::ModelFiles;
use super::clock;
use super::engine::{adapter_files, to_array};
use super::support;
use super::trainer::{Settings, batches, for_epochs};
use super::value::to_js;
use crate::burn::{AdapterKind, Bottleneck, BurnModel, Device, DoraModule, LoraModule, fresh_by};
use crate::formats::adapter::write_named;
use crate::generate::{Engine, Model};
use crate::model::AnyAdapter;
use crate::train::{
    AdapterType, BurnLearner, Event, Learner as _, TrainConfig, TrainData, Trainer,
};
use crate::{Error, Result};

/// What was measured on the way.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Training {
    device: String,
    trainable_parameters: usize,
    validations: Vec<Validation>,
    reports: Vec<Report>,
}

#[derive(Serialize)]
struct Validation {
    iteration: usize,
    loss: f32,
}

/// The end of an interval of `steps_per_report` iterations.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    iteration: usize,
    loss: f32,
    gradient_norm: f32,
    /// Since the training began.
    seconds: f64,
}

/// Trains an adapter of any type on `{ train, valid }`, first iteration to last, by burn's tensors
/// and autodiff on a GPU device of its own.
///
/// `files` are a model's (`{ name, blob }`), `name` is what the adapter's config calls it, `config`
/// is that of a `Trainer`. Gives `{ device, trainableParameters, validations, reports, adapter }`,
/// the last as files. It waits for the GPU by promises alone, so that the page stays usable.
#[wasm_bindgen(js_name = trainByBurn)]
pub async fn train_by_burn(
    files: Array,
    name: String,
    dataset: JsValue,
    config: JsValue,
) -> Result<JsValue, JsValue> {
    let Settings { config, epochs } = Settings::from_js(config)?;
    BurnLearner::<LoraModule>::check(&config)?;
    let checkpoint = ModelFiles::from_js(&files)?.open().await?;
    let device = Device::wgpu(&support::require_whole().await?)?;
    let engine = Engine::load_burn(&device, &checkpoint, &mut |_, _| Ok(())).await?;
    let Model::Burn(model) = engine.model() else {
        return Err(Error::invalid("the model is not on the burn engine").into());
    };
    config.check_model(engine.config())?;
    let (train, valid) = batches(&dataset, &engine, &config)?;
    let config = for_epochs(config, epochs, &train)?;
    let data = TrainData::new(train, valid, engine.config())?;
    let (training, adapter) = match config.adapter_type {
        AdapterType::Lora | AdapterType::Rslora => run::<LoraModule>(model, data, &config).await?,
        AdapterType::Dora => run::<DoraModule>(model, data, &config).await?,
        AdapterType::Bottleneck => run::<Bottleneck>(model, data, &config).await?,
        // Refused above.
        AdapterType::Full => return Err(Error::invalid("burn does not train whole weights").into()),
    };
    let adapter = match adapter {
        AnyAdapter::Lora(tensors) => {
            let arguments = match serde_json::to_value(&config) {
                Ok(Value::Object(map)) => map,
                _ => Map::new(),
            };
            adapter_files(&tensors, engine.config(), &name, "mlx", arguments)?
        }
        AnyAdapter::Named(named) => to_array(&write_named(&named, &name)?),
    };
    let training = to_js(&training)?;
    Reflect::set(&training, &"adapter".into(), &adapter)?;
    Ok(training)
}

/// The whole run of a new adapter of the type `A`; one of LoRA begins as our kernels' would.
async fn run<A: AdapterKind>(
    model: &Rc<BurnModel>,
    data: TrainData,
    config: &TrainConfig,
) -> Result<(Training, AnyAdapter)>
where
    A::Config: for<'a> From<&'a TrainConfig>,
{
    let kind = A::Config::from(config);
    let of = |(place, setting)| (place, A::Config::from(&config.of_layer(setting)));
    let places = config.settings(&model.llama.config)?.into_iter().map(of).collect();
    let adapter = fresh_by::<A>(model, &places, config.seed)?;
    let learner = BurnLearner::new(model, adapter, kind, data.room(), config);
    let mut trainer = Trainer::with(learner, data, config)?;
    let mut training = Training {
        device: model.device.name().to_owned(),
        trainable_parameters: trainer.learner().parameter_count(),
        ..Training::default()
    };
    let began = clock();
    while let Some(event) = trainer.advance().await? {
        match event {
            Event::Validated { iteration, loss, .. } => {
                training.validations.push(Validation { iteration, loss });
            }
            Event::Reported { iteration, loss, gradient_norm, .. } => {
                let seconds = clock() - began;
                training.reports.push(Report { iteration, loss, gradient_norm, seconds });
            }
            Event::Stepped { .. } => {}
        }
    }
    Ok((training, trainer.any_adapter().await?))
}
