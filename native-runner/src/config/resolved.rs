//! A run's settings as a file that repeats it.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use engram::train::{AdapterType, Optimizer, TrainConfig, TrainMode};
use serde_json::{Map, Value, json};

use super::keys::insert;
use crate::cli::Global;
use crate::commands::train::Options;

/// Every setting of a run, by the keys of a config file, as `--config` takes it.
pub fn resolved(
    global: &Global,
    options: &Options,
    config: &TrainConfig,
) -> Result<Map<String, Value>> {
    let path = |path: &Path| json!(path.display().to_string());
    let own = [
        ("model", Some(json!(global.model.to_string()))),
        ("engine", name(Some(global.engine))),
        ("device", name(global.device)),
        ("adapter", global.adapter.as_ref().map(|adapter| json!(adapter))),
        ("quantize", name(global.quantize)),
        ("cache_type", name(Some(global.cache_type))),
        ("no_autotune", Some(json!(global.no_autotune))),
        ("adapter_path", Some(path(&options.adapter_path))),
        ("init_adapter", options.init_adapter.as_deref().map(path)),
        ("format", name(options.format)),
        ("save_every", options.save_every.map(|every| json!(every))),
        (
            "tensorboard",
            options.tensorboard.as_ref().map(|folder| folder.as_deref().map_or(json!(true), path)),
        ),
        ("epochs", options.settings.epochs.map(|epochs| json!(epochs))),
        ("metrics", options.metrics.as_deref().map(path)),
    ];
    let mut file = Map::new();
    let own = own.into_iter().chain(options.data.settings()).chain(options.watch.settings());
    let own = own.chain(options.test.settings());
    let own = own.filter_map(|(option, value)| Some((option.to_owned(), value?)));
    // By way of a text, so that an f32 keeps its few digits.
    let mut trained: Map<String, Value> = serde_json::from_str(&serde_json::to_string(config)?)?;
    if let Some(Value::Object(schedule)) = trained.remove("lr_schedule") {
        for (key, value) in schedule {
            let option = match key.as_str() {
                "name" => "lr_schedule",
                "arguments" => "lr_schedule_arguments",
                other => other,
            };
            trained.insert(option.to_owned(), value);
        }
    }
    let optimizer = trained["optimizer"].as_str().unwrap_or_default().to_owned();
    let is_adam = matches!(config.optimizer, Optimizer::Adam | Optimizer::Adamw);
    let schedule = config.lr_schedule.as_ref().map_or(&[][..], |schedule| &schedule.arguments);
    let is_used = |(option, value): &(String, Value)| {
        // What the method or the optimizer does not have may not be set either.
        let is_absent = match option.as_str() {
            "rank" | "keys" | "dropout" => config.adapter_type == AdapterType::Full,
            "scale" => matches!(config.adapter_type, AdapterType::Bottleneck | AdapterType::Full),
            // How many those are is known when the data is.
            "iters" => options.settings.epochs.is_some(),
            "modules_to_save" => config.modules_to_save.is_empty(),
            "rank_pattern" => config.rank_pattern.is_empty(),
            "alpha_pattern" => config.alpha_pattern.is_empty(),
            "weight_decay" => config.optimizer == Optimizer::Adam,
            "betas" | "eps" | "bias_correction" => !is_adam,
            "beta" => config.train_mode != TrainMode::Dpo,
            "relative_step" | "scale_parameter" => config.optimizer != Optimizer::Adafactor,
            "lr_schedule_arguments" => schedule.is_empty(),
            "learning_rate" => {
                !schedule.is_empty()
                    || config.optimizer == Optimizer::Adafactor && config.relative_step
            }
            _ => value.is_null(),
        };
        !is_absent
    };
    for (option, value) in own.chain(trained.into_iter().filter(|entry| is_used(entry))) {
        insert(&mut file, &option, &optimizer, value);
    }
    Ok(file)
}

fn name(value: Option<impl ValueEnum>) -> Option<Value> {
    value?.to_possible_value().map(|value| json!(value.get_name()))
}

/// The text of a config file.
pub fn to_yaml(file: &Map<String, Value>) -> Result<String> {
    Ok(serde_saphyr::to_string(file)?)
}
