//! Adapters in any layout, and the checkpoint of a training.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use engram::formats::adapter::{CONFIG_FILE, Layout, read_gguf};
use engram::formats::{Gguf, Safetensors};
use engram::model::{AdapterTensors, AnyAdapter, Module, Target};
use engram::train;
use serde_json::{Value, json};

use super::finding::{Finding, short};
use super::model::json_of;
use crate::adapter;
use crate::source::{self, FileSource};

pub fn folder(path: &Path) -> Result<Finding> {
    let name = path.join(CONFIG_FILE).display().to_string();
    let config_json = source::required(path, CONFIG_FILE)?;
    let layout = Layout::detect(&name, &config_json)?;
    let (kind, base) = match layout {
        Layout::Mlx => ("adapter in MLX's files", "model"),
        Layout::Peft => ("adapter in PEFT's files", "base_model_name_or_path"),
    };
    let mut finding = Finding::new(path, kind);
    let adapter = adapter::read_folder(path, None)?;
    let config: Value = serde_json::from_slice(&config_json).context(name)?;
    let is_rslora = config["use_rslora"] == true;
    let kind = if is_rslora && adapter.kind() == "LoRA" { "rsLoRA" } else { adapter.kind() };
    finding.field("adapter_type", kind);
    finding.field("base_model", config[base].clone());
    match &adapter {
        AnyAdapter::Lora(tensors) => updates(&mut finding, tensors),
        AnyAdapter::Named(named) => {
            for (key, value) in &named.config {
                finding.metadata(key, value.clone());
            }
        }
    }
    let weights = FileSource::open(&path.join(layout.weights_file()))?;
    for tensor in pollster::block_on(Safetensors::parse(&weights))?.tensors {
        finding.tensor(format!("{:?}", tensor.dtype), &tensor.shape, tensor.bytes);
    }
    Ok(finding)
}

pub fn gguf(path: &Path, file: FileSource, gguf: &Gguf) -> Result<Finding> {
    let mut finding = Finding::new(path, "GGUF adapter");
    let adapter = pollster::block_on(read_gguf(&file, None))?;
    finding.field("adapter_type", "LoRA");
    finding.field("base_model", gguf.metadata.string("general.base_model.0.name")?);
    updates(&mut finding, &adapter);
    for (key, _) in gguf.metadata.pairs() {
        if let Some(value) = gguf.metadata.get(key) {
            finding.metadata(key, json_of(value));
        }
    }
    for tensor in &gguf.tensors {
        finding.tensor(tensor.dtype.name().into(), &tensor.shape, tensor.bytes);
    }
    Ok(finding)
}

/// Ranks, scales, layers and targets, and what takes the place of the model's weights.
fn updates(finding: &mut Finding, adapter: &AdapterTensors) {
    let all = || adapter.modules();
    let ranks: BTreeSet<usize> = all().map(|(_, lora)| lora.rank).collect();
    let mut scales: Vec<f32> = all().map(|(_, lora)| lora.scale).collect();
    scales.sort_by(f32::total_cmp);
    scales.dedup();
    let layers: BTreeSet<usize> = adapter.iter().map(|(layer, _, _)| layer).collect();
    let targets: BTreeSet<Target> = adapter.iter().map(|(_, target, _)| target).collect();
    let targets = targets.into_iter().map(|target| target.path().to_owned());
    let outside = [Module::Embedding, Module::Head].into_iter();
    let outside = outside.filter(|module| adapter.of(*module).is_some()).map(Module::path);
    finding.field("rank", one_or_more(ranks));
    finding.field("scale", one_or_more(scales.into_iter().map(|scale| short(scale.into()))));
    finding.field("layers", some(layers));
    finding.field("targets", some(targets.chain(outside)));
    finding.field("updates", all().count());
    finding.field("weights", some(adapter.weights().keys().map(String::as_str)));
}

/// A list, or nothing if it is empty.
fn some<T: Into<Value>>(values: impl IntoIterator<Item = T>) -> Value {
    let values: Vec<Value> = values.into_iter().map(Into::into).collect();
    if values.is_empty() { Value::Null } else { values.into() }
}

/// A value that all share, or else a list.
fn one_or_more<T: Into<Value>>(values: impl IntoIterator<Item = T>) -> Value {
    let mut values: Vec<Value> = values.into_iter().map(Into::into).collect();
    if values.len() == 1 { values.remove(0) } else { some(values) }
}

/// Whether it is the header of a training's checkpoint.
pub fn is_checkpoint(header: &Safetensors) -> bool {
    header.metadata.contains_key(train::Checkpoint::METADATA)
}

pub fn checkpoint(path: &Path) -> Result<Finding> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).context(shown.clone())?;
    let checkpoint = train::Checkpoint::from_bytes(&shown, &bytes)?;
    let mut finding = Finding::new(path, "checkpoint of a training");
    let (done, iters) = (checkpoint.iteration, checkpoint.config.iters);
    finding.field("iteration", done);
    finding.field("iterations_to_go", iters.saturating_sub(done));
    finding.field("updates", checkpoint.updates);
    finding.field("trained_tokens", checkpoint.trained_tokens);
    finding.field("best_val_loss", checkpoint.best.map(|loss| short(loss.into())));
    finding.field("gradient_norm", short(checkpoint.gradient_norm.into()));
    if let Value::Object(config) = json!(checkpoint.config) {
        for (key, value) in config {
            finding.metadata(&key, value);
        }
    }
    let parameters = checkpoint.parameters.len();
    finding.tensor("F32".into(), &[parameters], 4 * parameters as u64);
    Ok(finding)
}
