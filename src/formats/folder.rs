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
    pub async fn from_safetensors(folder: SafetensorsFolder) -> Result<Self> {
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
        let (sources, tensors) = shards(folder.weights, index.as_ref(), &index_name).await?;
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
async fn shards(
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
        let header = Safetensors::parse(source.as_ref()).await?;
        let number = sources.len();
        for tensor in header.tensors {
            // Buffers that no decoder reads may have any type.
            if tensor.name.ends_with(".rotary_emb.inv_freq") {
                continue;
            }
            let dtype: DType = tensor.float_dtype(source.name())?;
            if tensor.bytes == 0 {
                return Err(Error::format(
                    source.name(),
                    format!("tensor `{}` is empty; the file is damaged", tensor.name),
                ));
            }
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

#[cfg(test)]
mod tests {
    // What is in memory is read without waiting, which a page may do too.
    use pollster::block_on;

    use super::*;
    use crate::formats::Bytes;
    use crate::formats::testing::TinyLlama;
    use crate::testing::test;

    fn open(folder: SafetensorsFolder) -> Result<Checkpoint> {
        block_on(Checkpoint::from_safetensors(folder))
    }

    fn problem(folder: SafetensorsFolder) -> String {
        open(folder).map(|_| ()).expect_err("malformed").to_string()
    }

    /// The tiny model in two files, with their index.
    fn sharded() -> (SafetensorsFolder, serde_json::Value) {
        let tiny = TinyLlama::default();
        let mut folder = tiny.folder();
        folder.weights.clear();
        for part in 0..2 {
            let file = format!("part-{part}.safetensors");
            let source = Bytes::new(format!("tiny/{file}"), tiny.safetensors(part, 2));
            folder.weights.push((file, Box::new(source)));
        }
        let mut map = serde_json::Map::new();
        for (i, (_, name, _)) in tiny.tensors().into_iter().enumerate() {
            map.insert(name, format!("part-{}.safetensors", i % 2).into());
        }
        (folder, serde_json::json!({ "weight_map": map }))
    }

    #[test]
    fn shards_are_one_model() {
        let whole = open(TinyLlama::default().folder()).expect("valid");
        let (mut folder, index) = sharded();
        folder.index_json = Some(index.to_string().into_bytes());
        // A copy of the weights that the index does not name is not read.
        let stray = Box::new(Bytes::new("tiny/consolidated.safetensors", [0]));
        folder.weights.push(("consolidated.safetensors".into(), stray));
        let parts = open(folder).expect("valid");
        assert!(whole.tensor_names().eq(parts.tensor_names()));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for name in whole.tensor_names() {
            let rows = whole.tensor(name).expect("there").rows();
            block_on(whole.read_rows(name, 0..rows, &mut a)).expect("in range");
            block_on(parts.read_rows(name, 0..rows, &mut b)).expect("in range");
            assert_eq!(a, b, "{name}");
        }
    }

    #[test]
    fn a_broken_index_is_named() {
        let (mut folder, index) = sharded();
        folder.index_json = Some(index.to_string().into_bytes());
        folder.weights.pop();
        let missing = "tiny/model.safetensors.index.json: names the file `part-1.safetensors`";
        assert!(problem(folder).starts_with(missing));

        let (mut folder, mut index) = sharded();
        index["weight_map"]["model.norm.weight"] = "part-0.safetensors".into();
        folder.index_json = Some(index.to_string().into_bytes());
        assert!(problem(folder).contains("places tensor `model.norm.weight` in"));

        let (mut folder, _) = sharded();
        folder.index_json = Some(b"{}".to_vec());
        assert!(problem(folder).contains("missing field `weight_map`"));

        let mut folder = TinyLlama::default().folder();
        let again = Bytes::new("tiny/b", TinyLlama::default().safetensors(0, 2));
        folder.weights.push(("b".into(), Box::new(again)));
        assert!(problem(folder).contains("is in another file too"));
    }

    #[test]
    fn a_wrong_dtype_a_missing_tensor_and_a_wrong_shape_are_named() {
        let mut folder = TinyLlama::default().folder();
        let header = r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length, header.as_bytes(), &[0; 8]].concat();
        folder.weights = vec![("a".into(), Box::new(Bytes::new("tiny/a", bytes)))];
        let expected = "tiny/a: tensor `a` has type I64; supported: F32, F16, BF16";
        assert_eq!(problem(folder), expected);

        let mut folder = TinyLlama::default().folder();
        let header = r#"{"a":{"dtype":"F32","shape":[0,9],"data_offsets":[0,0]}}"#;
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length, header.as_bytes()].concat();
        folder.weights = vec![("a".into(), Box::new(Bytes::new("tiny/a", bytes)))];
        assert!(problem(folder).contains("tensor `a` is empty"));

        let mut folder = TinyLlama::default().folder();
        let half = Bytes::new("tiny/half", TinyLlama::default().safetensors(0, 2));
        folder.weights = vec![("half".into(), Box::new(half))];
        assert!(problem(folder).contains("tensor `model.norm.weight` [64] is missing"));

        let mut folder = TinyLlama::default().folder();
        let config = String::from_utf8(folder.config_json).expect("UTF-8");
        folder.config_json = config.replace("96", "95").into_bytes();
        assert!(problem(folder).contains("shape [96, 64], but the config expects [95, 64]"));

        let mut folder = TinyLlama::default().folder();
        folder.weights.clear();
        assert_eq!(problem(folder), "tiny: has no safetensors file");
    }

    #[test]
    fn the_files_beside_the_weights_are_used() {
        let mut folder = TinyLlama::default().folder();
        folder.generation_config_json = Some(br#"{"eos_token_id": [2, 0]}"#.to_vec());
        folder.chat_template_jinja = Some(b"jinja".to_vec());
        let checkpoint = open(folder).expect("valid");
        assert_eq!(checkpoint.config.eos_token_ids, [2, 0]);
        assert_eq!(checkpoint.chat_template.as_deref(), Some("jinja"));
        assert_eq!(checkpoint.eos_token.as_deref(), Some("t2"));
        assert_eq!(checkpoint.tokenizer, TokenizerFile::Json(b"{}".to_vec()));
        for broken in ["config.json", "generation_config.json", "tokenizer_config.json"] {
            let mut folder = TinyLlama::default().folder();
            match broken {
                "config.json" => folder.config_json = b"{".to_vec(),
                "generation_config.json" => folder.generation_config_json = Some(b"[".to_vec()),
                _ => folder.tokenizer_config_json = Some(b"!".to_vec()),
            }
            assert!(problem(folder).starts_with(&format!("tiny/{broken}: ")));
        }
    }
}
