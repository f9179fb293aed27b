//! The JSON files beside a model's safetensors.

use serde_json::{Map, Value};

use crate::formats::{Checkpoint, DType, GgufTokenizer, TokenizerFile};
use crate::text::Tokenizer;
use crate::{Error, Result};

/// What `config.json` calls a type.
fn torch_dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// `config.json`, called `name` in errors, of weights that are in `dtype` now.
///
/// # Errors
/// When it is not a JSON object.
pub fn config_with_dtype(name: &str, config_json: &[u8], dtype: DType) -> Result<Vec<u8>> {
    let mut config: Map<String, Value> = serde_json::from_slice(config_json)
        .map_err(|error| Error::format(name, error.to_string()))?;
    // transformers 5 writes `dtype`.
    let field = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(field.into(), torch_dtype(dtype).into());
    Ok(pretty(&config.into()))
}

/// The files, names and contents, that transformers needs beside weights in `dtype` of a model that
/// was GGUF: configuration, tokenizer and chat template.
///
/// # Errors
/// A tokenizer that can't be built; a model that was not GGUF, whose own files are there already.
pub fn folder_files(checkpoint: &Checkpoint, dtype: DType) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let TokenizerFile::Gguf(metadata) = &checkpoint.tokenizer else {
        return Err(Error::invalid(
            "the model has its files of configuration and tokenizer already",
        ));
    };
    let plain = checkpoint.config.to_json();
    let config = config_with_dtype("config.json", &plain, dtype)?;
    let fields: Map<String, Value> =
        serde_json::from_slice(&plain).map_err(|error| Error::invalid(error.to_string()))?;
    let mut generation: Map<String, Value> = fields
        .into_iter()
        .filter(|(key, value)| {
            ["bos_token_id", "eos_token_id"].contains(&&**key) && !value.is_null()
        })
        .collect();
    generation.extend(metadata.pad_token_id.map(|id| ("pad_token_id".to_owned(), id.into())));
    Ok(vec![
        ("config.json", config),
        ("generation_config.json", pretty(&generation.into())),
        ("tokenizer.json", Tokenizer::from_gguf(metadata)?.to_json()?),
        ("tokenizer_config.json", tokenizer_config(checkpoint, metadata)),
    ])
}

fn tokenizer_config(checkpoint: &Checkpoint, metadata: &GgufTokenizer) -> Vec<u8> {
    let text = |id: Option<u32>| metadata.tokens.get(id? as usize).cloned();
    let mut config = Map::new();
    for (key, value) in [
        ("bos_token", checkpoint.bos_token.clone()),
        ("eos_token", checkpoint.eos_token.clone()),
        ("pad_token", text(metadata.pad_token_id)),
        ("unk_token", text(metadata.unk_token_id)),
        ("chat_template", checkpoint.chat_template.clone()),
    ] {
        config.extend(value.map(|value| (key.to_owned(), value.into())));
    }
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("model_max_length".into(), checkpoint.config.max_position_embeddings.into());
    // The class that takes tokenizer.json as it is.
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    pretty(&config.into())
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
