//! What GGUF metadata says of the architecture and the tokenizer.

use super::gguf::Gguf;
use super::metadata::Metadata;
use crate::Result;
use crate::model::{ModelConfig, RopeScaling};

/// The `tokenizer.ggml.*` metadata of a GGUF file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer {
    /// The algorithm: `gpt2` is byte-level BPE, `llama` SentencePiece.
    pub model: String,
    /// Which pre-tokenizer splits the text before BPE, such as `smollm`.
    pub pre: Option<String>,
    /// The token of each id.
    pub tokens: Vec<String>,
    /// Per token, 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty if the
    /// file does not say.
    pub token_type: Vec<i32>,
    /// Merges in order of rank, `left right`; empty without BPE.
    pub merges: Vec<String>,
    /// Per token, its score in SentencePiece.
    pub scores: Option<Vec<f32>>,
    /// Token that starts a text.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text.
    pub eos_token_id: Option<u32>,
    /// Token for what the vocabulary lacks.
    pub unk_token_id: Option<u32>,
    /// Token that fills up batches.
    pub pad_token_id: Option<u32>,
    /// Token that ends a turn.
    pub eot_token_id: Option<u32>,
    /// Whether a text is encoded with the start token before it.
    pub add_bos_token: Option<bool>,
    /// Whether a text is encoded with a space before it.
    pub add_space_prefix: Option<bool>,
}

impl GgufTokenizer {
    /// Takes the tokenizer out of `metadata`.
    pub(super) fn take(metadata: &mut Metadata, vocab_size: usize) -> Result<Self> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let Some(model) = metadata.string(&key("model"))?.map(str::to_owned) else {
            return Err(metadata.error(
                "has no tokenizer (metadata `tokenizer.ggml.model`); convert the model again with \
                 its tokenizer",
            ));
        };
        let tokens = metadata.take_strings(&key("tokens"))?.unwrap_or_default();
        if tokens.is_empty() || tokens.len() > vocab_size {
            return Err(metadata.error(format!(
                "has {} tokens for a vocabulary of {vocab_size}; convert the model again",
                tokens.len()
            )));
        }
        let token_type = metadata.i32s(&key("token_type"))?;
        let scores = metadata.f32s(&key("scores"))?;
        for (name, length) in [
            ("token_type", token_type.as_ref().map(Vec::len)),
            ("scores", scores.as_ref().map(Vec::len)),
        ] {
            if length.is_some_and(|length| length != tokens.len()) {
                return Err(metadata.error(format!(
                    "tokenizer.ggml.{name} is not as long as the {} tokens; convert the model again",
                    tokens.len()
                )));
            }
        }
        let token = |name: &str| {
            let id = metadata.token(&key(name))?;
            match id {
                Some(id) if id as usize >= tokens.len() => Err(metadata.error(format!(
                    "tokenizer.ggml.{name} is {id}, but there are {} tokens; convert the model \
                     again",
                    tokens.len()
                ))),
                id => Ok(id),
            }
        };
        Ok(Self {
            pre: metadata.string(&key("pre"))?.map(str::to_owned),
            bos_token_id: token("bos_token_id")?,
            eos_token_id: token("eos_token_id")?,
            unk_token_id: token("unknown_token_id")?,
            pad_token_id: token("padding_token_id")?,
            eot_token_id: token("eot_token_id")?,
            add_bos_token: metadata.bool(&key("add_bos_token"))?,
            add_space_prefix: metadata.bool(&key("add_space_prefix"))?,
            token_type: token_type.unwrap_or_default(),
            merges: metadata.take_strings(&key("merges"))?.unwrap_or_default(),
            model,
            tokens,
            scores,
        })
    }
}

impl ModelConfig {
    /// Reads the metadata of a GGUF file, and from its tensors whether the head is tied and
    /// attention has biases.
    ///
    /// Llama 3's rope scaling is not in the metadata but in the tensor `rope_freqs.weight`:
    /// [`super::Checkpoint`] sets [`Self::rope_scaling`] from that.
    ///
    /// # Errors
    /// When a field is missing or out of range, the architecture is not supported, or the file
    /// asks for something the decoder does not have (experts, another rope scaling, a part of a
    /// split file).
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let metadata = &gguf.metadata;
        let name = metadata.name();
        let Some(model_type) = metadata.string("general.architecture")? else {
            return Err(metadata.error("does not name its architecture; convert the model again"));
        };
        Self::check_model_type(name, model_type)?;
        let key = |field: &str| format!("{model_type}.{field}");
        let size = |field: &str| metadata.size(&key(field));
        let missing = |field: &str| {
            metadata.error(format!("has no metadata `{}`; convert the model again", key(field)))
        };
        let needed = |field: &str| size(field)?.ok_or_else(|| missing(field));

        let parts = metadata.size("split.count")?.unwrap_or(1);
        if parts > 1 {
            return Err(metadata.error(format!(
                "is one of {parts} parts; join them with `llama-gguf-split --merge`"
            )));
        }
        if size("expert_count")?.unwrap_or(0) > 0 {
            return Err(metadata.error("has experts, which are not supported; take a dense model"));
        }
        let hidden_size = needed("embedding_length")?;
        let num_attention_heads = needed("attention.head_count")?;
        let head_dim = match size("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                return Err(metadata.error(format!(
                    "attention.head_count {num_attention_heads} does not divide embedding_length \
                     {hidden_size}"
                )));
            }
        };
        for field in ["rope.dimension_count", "attention.value_length"] {
            if let Some(other) = size(field)?.filter(|&other| other != head_dim) {
                return Err(metadata.error(format!(
                    "{} is {other}, but heads are {head_dim} wide; only whole heads are supported",
                    key(field)
                )));
            }
        }
        let vocab_size = match size("vocab_size")? {
            Some(size) => Some(size),
            None => metadata.strings_len("tokenizer.ggml.tokens"),
        };
        let eps = "attention.layer_norm_rms_epsilon";
        let mut eos_token_ids = Vec::new();
        for end in ["eos", "eot", "eom"] {
            let id = metadata.token(&format!("tokenizer.ggml.{end}_token_id"))?;
            eos_token_ids.extend(id.filter(|id| !eos_token_ids.contains(id)));
        }
        let has = |tensor: &str| gguf.tensors.iter().any(|found| found.name == tensor);
        Self {
            model_type: model_type.into(),
            vocab_size: vocab_size.ok_or_else(|| missing("vocab_size"))?,
            hidden_size,
            intermediate_size: needed("feed_forward_length")?,
            num_hidden_layers: needed("block_count")?,
            num_attention_heads,
            num_key_value_heads: size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings: needed("context_length")?,
            rms_norm_eps: metadata.float(&key(eps))?.ok_or_else(|| missing(eps))?,
            rope_theta: metadata.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scaling: rope_scaling(metadata, model_type)?,
            tie_word_embeddings: !has("output.weight"),
            attention_bias: ["q", "k", "v", "output"]
                .iter()
                .any(|part| has(&format!("blk.0.attn_{part}.bias"))),
            bos_token_id: metadata.token("tokenizer.ggml.bos_token_id")?,
            eos_token_ids,
        }
        .validate(name)
    }
}

fn rope_scaling(metadata: &Metadata, model_type: &str) -> Result<Option<RopeScaling>> {
    let key = |field: &str| format!("{model_type}.rope.{field}");
    let factor = metadata.float(&key("scaling.factor"))?;
    match metadata.string(&key("scaling.type"))? {
        Some("linear") => match factor {
            Some(factor) => Ok(Some(RopeScaling::Linear { factor })),
            None => Err(metadata.error(format!("has no metadata `{}`", key("scaling.factor")))),
        },
        Some("none") => Ok(None),
        // The spelling of 2023, without a type.
        None => Ok(metadata
            .float(&key("scale_linear"))?
            .or(factor)
            .filter(|&factor| factor != 1.0)
            .map(|factor| RopeScaling::Linear { factor })),
        Some(other) => Err(metadata
            .error(format!("rope scaling `{other}` is not supported; supported: none, linear"))),
    }
}

/// Llama 3's scaling from the divisors of the rotary frequencies that GGUF stores in place of its
/// parameters; `None` if they divide by 1.
///
/// Every Llama 3 model has the frequency factors 1 and 4; the stretch is the largest divisor. What
/// these don't reproduce is refused rather than approximated.
pub(super) fn llama3_scaling(
    metadata: &Metadata,
    config: &ModelConfig,
    divisors: &[f32],
) -> Result<Option<RopeScaling>> {
    if divisors.iter().all(|&divisor| divisor == 1.0) {
        return Ok(None);
    }
    let original = format!("{}.rope.scaling.original_context_length", config.model_type);
    let scaling = RopeScaling::Llama3 {
        factor: divisors.iter().copied().fold(1.0, f32::max),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: metadata.size(&original)?.unwrap_or(8192),
    };
    let expected = scaling.factors(config.head_dim, config.rope_theta);
    let same = expected.len() == divisors.len()
        && expected.iter().zip(divisors).all(|(a, b)| (a / b - 1.0).abs() <= 1e-4);
    if !same || config.rope_scaling.is_some() {
        return Err(metadata.error(
            "tensor `rope_freqs.weight` is not Llama 3's rope scaling; take the model's safetensors",
        ));
    }
    Ok(Some(scaling))
}
