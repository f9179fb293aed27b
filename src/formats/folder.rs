//! A Hugging Face model folder: safetensors and the JSON files beside them.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::checkpoint::Stored;
use super::safetensors::Index;
use super::{ByteSource, Checkpoint, DType, Safetensors, TensorInfo, TokenizerFile};
use crate::model::ModelConfig;
use crate::{Error, Result};

/// The files of a model folder, as far as the caller found them.
pub struct SafetensorsFolder {
    /// The folder, as errors call it.
    pub name: String,
    /// The safetensors files: file name and content.
    pub weights: Vec<(String, Box<dyn ByteSource>)>,
    /// `model.safetensors.index.json`; with it, only the files it names are read.
    pub index_json: Option<Vec<u8>>,
    /// `config.json`.
    pub config_json: Vec<u8>,
    /// `generation_config.json`.
    pub generation_config_json: Option<Vec<u8>>,
    /// `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`.
    pub tokenizer_config_json: Option<Vec<u8>>,
    /// `chat_template.jinja`, which wins over the template in `tokenizer_config.json`.
    pub chat_template_jinja: Option<Vec<u8>>,
}

/// The part of `tokenizer_config.json` that `tokenizer.json` does not have.
#[derive(Deserialize, Default)]
struct TokenizerConfig {
    chat_template: Option<ChatTemplates>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

impl SpecialToken {
    fn text(self) -> String {
        match self {
            SpecialToken::Text(text) | SpecialToken::Added { content: text } => text,
        }
    }
}

impl Checkpoint {
    /// Opens the files of a Hugging Face model folder.
    ///
    /// # Errors
    /// As [`Safetensors::parse`] and [`ModelConfig::from_json`]; when the index names a file or a
    /// tensor that is not there, or a tensor is in two files; and when a tensor that the
    /// architecture needs is missing, has another shape, or is not F32, F16 or BF16.
    pub fn from_safetensors(folder: SafetensorsFolder) -> Result<Self> {
        let path = |file: &str| match folder.name.as_str() {
            "" => file.to_owned(),
            name => format!("{}/{file}", name.trim_end_matches('/')),
        };
        let mut config = ModelConfig::from_json(&path("config.json"), &folder.config_json)?;
        if let Some(json) = &folder.generation_config_json {
            config = config.with_generation_config(&path("generation_config.json"), json)?;
        }
        let tokenizer_config: TokenizerConfig = match &folder.tokenizer_config_json {
            Some(json) => parse(&path("tokenizer_config.json"), json)?,
            None => TokenizerConfig::default(),
        };
        let chat_template = match folder.chat_template_jinja {
            Some(bytes) => Some(String::from_utf8(bytes).map_err(|_| {
                Error::format(path("chat_template.jinja"), "is not UTF-8; fetch it again")
            })?),
            None => match tokenizer_config.chat_template {
                Some(ChatTemplates::One(template)) => Some(template),
                Some(ChatTemplates::Named(templates)) => templates
                    .into_iter()
                    .find(|template| template.name == "default")
                    .map(|template| template.template),
                None => None,
            },
        };
        let index: Option<Index> = match &folder.index_json {
            Some(json) => Some(parse(&path("model.safetensors.index.json"), json)?),
            None => None,
        };
        if folder.weights.is_empty() {
            return Err(Error::format(&folder.name, "has no safetensors file"));
        }
        let index_name = path("model.safetensors.index.json");
        let (sources, tensors) = shards(folder.weights, index.as_ref(), &index_name)?;
        let checkpoint = Self {
            config,
            tokenizer: TokenizerFile::Json(folder.tokenizer_json),
            chat_template,
            bos_token: tokenizer_config.bos_token.map(SpecialToken::text),
            eos_token: tokenizer_config.eos_token.map(SpecialToken::text),
            sources,
            tensors,
        };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }
}

type Shards = (Vec<Box<dyn ByteSource>>, BTreeMap<String, Stored>);

/// The headers of all files as one set of tensors.
fn shards(
    weights: Vec<(String, Box<dyn ByteSource>)>,
    index: Option<&Index>,
    index_name: &str,
) -> Result<Shards> {
    let mut sources: Vec<Box<dyn ByteSource>> = Vec::new();
    let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
    let mut files: HashMap<String, usize> = HashMap::new();
    for (file, source) in weights {
        if index.is_some_and(|index| !index.weight_map.values().any(|named| *named == file)) {
            continue;
        }
        let header = Safetensors::parse(source.as_ref())?;
        let number = sources.len();
        for tensor in header.tensors {
            // Buffers that no decoder reads may have any type.
            if tensor.name.ends_with(".rotary_emb.inv_freq") {
                continue;
            }
            let dtype: DType = tensor.float_dtype(source.name())?;
            let info = TensorInfo { name: tensor.name.clone(), dtype, shape: tensor.shape };
            let stored = Stored { info, source: number, offset: tensor.offset, interleaved: None };
            if tensors.insert(tensor.name.clone(), stored).is_some() {
                return Err(Error::format(
                    source.name(),
                    format!("tensor `{}` is in another file too", tensor.name),
                ));
            }
        }
        files.insert(file, number);
        sources.push(source);
    }
    // Sorted, so that the same broken index always gives the same line.
    let named: BTreeMap<&String, &String> =
        index.iter().flat_map(|index| &index.weight_map).collect();
    for (tensor, file) in named {
        let Some(&number) = files.get(file) else {
            return Err(Error::format(
                index_name,
                format!("names the file `{file}`, which is not there; fetch it too"),
            ));
        };
        let found = tensors.get(tensor).is_some_and(|stored| stored.source == number);
        if !found && !tensor.ends_with(".rotary_emb.inv_freq") {
            return Err(Error::format(
                index_name,
                format!("places tensor `{tensor}` in `{file}`, which does not have it"),
            ));
        }
    }
    Ok((sources, tensors))
}

fn parse<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::format(name, error.to_string()))
}
