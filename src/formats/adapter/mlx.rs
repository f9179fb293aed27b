//! MLX-LM's `adapter_config.json` (`mlx_lm/tuner/utils.py`, `load_adapters`).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{AdapterFiles, Layout, Setting, Settings, check_writable, is_dora, tensors};
use crate::model::{Adapter, AdapterTensors, ModelConfig, Module, Target};
use crate::{Error, Result};

/// The `fine_tune_type`s that are read and written.
const LORA: &str = "lora";
const DORA: &str = "dora";
const FULL: &str = "full";

#[derive(Deserialize)]
struct Config {
    fine_tune_type: Option<String>,
    lora_parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    rank: usize,
    scale: f64,
}

/// What the config says of rank and scale. Which layers have an update, the tensors say.
pub(super) fn settings(name: &str, config_json: &[u8]) -> Result<Settings> {
    let wrong = |problem: String| Err(Error::format(name, problem));
    let config: Config = match serde_json::from_slice(config_json) {
        Ok(config) => config,
        Err(error) => return wrong(error.to_string()),
    };
    let is_dora = match config.fine_tune_type.as_deref() {
        None | Some(LORA) => false,
        Some(DORA) => true,
        // It has no updates, and so none of a rank.
        Some(FULL) => {
            return Ok(Settings {
                is_dora: false,
                modules_to_save: Vec::new(),
                of: Box::new(|_| Setting { rank: 0, scale: 0.0 }),
            });
        }
        Some(kind) => {
            return wrong(format!("fine_tune_type is `{kind}`; supported: {LORA}, {DORA}, {FULL}"));
        }
    };
    match config.lora_parameters {
        None => wrong("lora_parameters is missing".into()),
        Some(Parameters { rank: 0, .. }) => wrong("lora_parameters.rank is 0".into()),
        Some(Parameters { rank, scale }) => Ok(Settings {
            is_dora,
            modules_to_save: Vec::new(),
            of: Box::new(move |_| Setting { rank, scale }),
        }),
    }
}

/// MLX-LM's files of an adapter of a model of `config`.
///
/// `arguments` is what else `adapter_config.json` says, such as the training's settings; a
/// `dropout` among its `lora_parameters` is kept.
///
/// # Errors
/// An adapter that is not one of the model, is empty, has magnitudes on some updates only, or more
/// than one rank or scale, for which MLX has no words; of a tied embedding an update that is not the
/// head's too.
pub fn write(
    adapter: &AdapterTensors,
    config: &ModelConfig,
    arguments: &Map<String, Value>,
) -> Result<AdapterFiles> {
    check_writable(adapter, config)?;
    let adapter = &untied(adapter, config)?;
    let mut arguments = arguments.clone();
    if adapter.is_full() {
        arguments.insert("fine_tune_type".into(), FULL.into());
        arguments.insert("num_layers".into(), blocks_with_weights(adapter, config).into());
        arguments.insert("lora_parameters".into(), Value::Null);
        return files(adapter, arguments);
    }
    let kind = if is_dora(adapter)? { DORA } else { LORA };
    let mut settings = adapter.modules().map(|(_, lora)| (lora.rank, lora.scale));
    let (rank, scale) = settings.next().unwrap_or_default();
    if settings.any(|other| other != (rank, scale)) {
        return Err(Error::invalid(
            "MLX's adapter files have one rank and one scale; write this one as PEFT's",
        ));
    }
    arguments.insert("fine_tune_type".into(), kind.into());
    // Counted from the last block; what lies between and has no tensors changes nothing.
    let first = adapter.first_layer().unwrap_or(0);
    arguments.insert("num_layers".into(), (config.num_hidden_layers - first).into());
    let mut parameters = match arguments.remove("lora_parameters") {
        Some(Value::Object(parameters)) => parameters,
        _ => Map::new(),
    };
    parameters.insert("rank".into(), rank.into());
    parameters.insert("scale".into(), json!(scale));
    parameters.entry("dropout").or_insert(json!(0.0));
    parameters.remove("keys");
    let has = |target: &Target| adapter.iter().any(|(_, found, _)| found == *target);
    let targets = Target::ALL.into_iter().filter(has).map(|target| target.path().to_owned());
    let mut keys: Vec<String> = targets.collect();
    if keys.len() < Target::ALL.len() || adapter.outside_of_blocks().is_some() {
        // A block's layers go by their paths in it, others by theirs in the model.
        let others = [Module::Embedding, Module::Head].into_iter();
        keys.extend(others.filter(|module| adapter.of(*module).is_some()).map(Module::path));
        parameters.insert("keys".into(), keys.into());
    }
    arguments.insert("lora_parameters".into(), parameters.into());
    files(adapter, arguments)
}

/// The adapter as MLX's model makes it of what its files hold: where the head is the embedding, the
/// update of that is the head's too (`LoRAEmbedding.as_linear`).
pub(super) fn tied(
    name: &str,
    adapter: AdapterTensors,
    config: &ModelConfig,
) -> Result<AdapterTensors> {
    if !config.tie_word_embeddings {
        return Ok(adapter);
    }
    if adapter.of(Module::Head).is_some() {
        return Err(Error::format(
            name,
            "updates `lm_head`, which an MLX model with tied embeddings does not have",
        ));
    }
    let head = adapter.of(Module::Embedding).map(|lora| (Module::Head, lora.transposed()));
    let updates = adapter.modules().map(|(module, lora)| (module, lora.clone())).chain(head);
    Ok(Adapter::of_modules(updates).with_weights(adapter.weights().clone()))
}

/// What [`tied`] makes the adapter of.
fn untied<'a>(
    adapter: &'a AdapterTensors,
    config: &ModelConfig,
) -> Result<Cow<'a, AdapterTensors>> {
    if !config.tie_word_embeddings || adapter.outside_of_blocks().is_none() {
        return Ok(Cow::Borrowed(adapter));
    }
    if !adapter.keeps_tied() {
        return Err(Error::invalid(
            "in MLX an update of a tied embedding is the head's too, and this adapter's are not the \
             same; write it as PEFT's",
        ));
    }
    let updates = adapter.modules().filter(|(module, _)| *module != Module::Head);
    let updates = updates.map(|(module, lora)| (module, lora.clone()));
    Ok(Cow::Owned(Adapter::of_modules(updates).with_weights(adapter.weights().clone())))
}

/// How many blocks there are from the first with a weight of the adapter's to the last.
fn blocks_with_weights(adapter: &AdapterTensors, config: &ModelConfig) -> usize {
    let layer = |name: &String| {
        let (layer, _) = name.strip_prefix("model.layers.")?.split_once('.')?;
        layer.parse::<usize>().ok()
    };
    let first = adapter.weights().keys().filter_map(layer).min();
    config.num_hidden_layers - first.unwrap_or(config.num_hidden_layers)
}

fn files(adapter: &AdapterTensors, arguments: Map<String, Value>) -> Result<AdapterFiles> {
    Ok(AdapterFiles {
        layout: Layout::Mlx,
        config_json: format!("{:#}\n", Value::Object(arguments)).into_bytes(),
        weights: tensors::write(Layout::Mlx, adapter)?,
    })
}
