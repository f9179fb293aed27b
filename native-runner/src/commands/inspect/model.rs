//! Models: GGUF files, folders and files of safetensors.

use std::path::Path;

use anyhow::Result;
use engram::formats::{
    Array, Checkpoint, Gguf, Metadata, Safetensors, TokenizerFile, Value as GgufValue,
};
use serde_json::{Value, json};

use super::finding::{Finding, short};
use crate::session;
use crate::source::{FileSource, ModelFiles};

/// Items of an array of metadata that are listed; of a longer one its length is told.
const LISTED: usize = 16;

pub fn gguf(path: &Path, file: FileSource, gguf: &Gguf) -> Result<Finding> {
    let mut finding = Finding::new(path, "GGUF model");
    let metadata = &gguf.metadata;
    finding.field("architecture", text(metadata, "general.architecture"));
    finding.field("name", text(metadata, "general.name"));
    match pollster::block_on(Checkpoint::from_gguf(Box::new(file))) {
        Ok(checkpoint) => shapes(&mut finding, &checkpoint)?,
        // Another architecture than ours is still worth a look.
        Err(error) => finding.field("not_runnable", error.to_string()),
    }
    let count = |key: &str| metadata.strings_len(key);
    let tokenizer = json!({
        "model": text(metadata, "tokenizer.ggml.model"),
        "pre": text(metadata, "tokenizer.ggml.pre"),
        "tokens": count("tokenizer.ggml.tokens"),
        "merges": count("tokenizer.ggml.merges"),
    });
    finding.field("tokenizer", tokenizer);
    finding.field("chat_template", text(metadata, "tokenizer.chat_template"));
    for (key, _) in metadata.pairs() {
        if let Some(value) = metadata.get(key).filter(|_| key != "tokenizer.chat_template") {
            finding.metadata(key, json_of(value));
        }
    }
    for tensor in &gguf.tensors {
        finding.tensor(tensor.dtype.name().into(), &tensor.shape, tensor.bytes);
    }
    Ok(finding)
}

pub fn folder(path: &Path) -> Result<Finding> {
    let mut finding = Finding::new(path, "model in safetensors");
    let checkpoint = session::open_checkpoint(&ModelFiles::Folder(path.to_owned()))?;
    finding.field("architecture", checkpoint.config.model_type.clone());
    shapes(&mut finding, &checkpoint)?;
    if let TokenizerFile::Json(json) = &checkpoint.tokenizer {
        let tokenizer = engram::text::Tokenizer::from_json("tokenizer.json", json)?;
        finding.field("tokenizer", json!({"tokens": tokenizer.vocab_size()}));
    }
    finding.field("chat_template", checkpoint.chat_template.clone());
    for name in checkpoint.tensor_names() {
        if let Some(info) = checkpoint.tensor(name) {
            let bytes = info.rows() as u64 * info.row_bytes() as u64;
            finding.tensor(info.dtype.name().into(), &info.shape, bytes);
        }
    }
    Ok(finding)
}

/// A file of tensors by itself.
pub fn safetensors(path: &Path, header: &Safetensors) -> Finding {
    let mut finding = Finding::new(path, "safetensors");
    for (key, value) in &header.metadata {
        finding.metadata(key, value.clone().into());
    }
    let names: Vec<&str> = header.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    finding.field("first_tensors", names.get(..LISTED).unwrap_or(&names).to_vec());
    for tensor in &header.tensors {
        finding.tensor(format!("{:?}", tensor.dtype), &tensor.shape, tensor.bytes);
    }
    finding
}

/// The fields of `config.json`, which a GGUF has by other names.
fn shapes(finding: &mut Finding, checkpoint: &Checkpoint) -> Result<()> {
    let config: Value = serde_json::from_slice(&checkpoint.config.to_json())?;
    for key in [
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "tie_word_embeddings",
        "attention_bias",
        "bos_token_id",
        "eos_token_id",
    ] {
        finding.field(key, config[key].clone());
    }
    Ok(())
}

fn text(metadata: &Metadata, key: &str) -> Value {
    metadata.string(key).ok().flatten().into()
}

pub fn json_of(value: &GgufValue) -> Value {
    match value {
        GgufValue::Unsigned(number) => (*number).into(),
        GgufValue::Signed(number) => (*number).into(),
        GgufValue::Float(number) => short(*number).into(),
        GgufValue::Bool(flag) => (*flag).into(),
        GgufValue::String(text) => text.clone().into(),
        GgufValue::Array(Array::Scalars(scalars)) if scalars.values().len() <= LISTED => {
            scalars.values().map(|value| json_of(&value)).collect()
        }
        GgufValue::Array(Array::Strings(strings)) if strings.len() <= LISTED => {
            strings.clone().into()
        }
        GgufValue::Array(array) => {
            let length = match array {
                Array::Scalars(scalars) => scalars.values().len(),
                Array::Strings(strings) => strings.len(),
                Array::Arrays(arrays) => arrays.len(),
            };
            json!({ "items": length })
        }
    }
}
