//! The metadata of a GGUF file that is written.

use super::tokenizer;
use crate::formats::{ByteSource, Checkpoint, DType, Gguf, GgufTokenizer, Pairs, TokenizerFile};
use crate::model::RopeScaling;
use crate::{Error, Result};

/// What says of most weights how they are stored.
const FILE_TYPE: &str = "general.file_type";
/// The version of ggml's block types.
const QUANTIZATION_VERSION: &str = "general.quantization_version";

/// llama.cpp's number for a file whose matrices are of `dtype` (`enum llama_ftype`).
fn file_type(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q8_0 => 7,
        DType::Q5_0 => 8,
        DType::Q5_1 => 9,
        DType::Q2_K => 10,
        DType::Q3_K => 12,
        DType::Q4_K => 15,
        DType::Q5_K => 17,
        DType::Q6_K => 18,
        DType::BF16 => 32,
    }
}

/// The pairs of another GGUF file as they are, but for what says that its matrices are of `dtype`,
/// if they are now.
pub(super) async fn copied(
    source: &dyn ByteSource,
    gguf: &Gguf,
    dtype: Option<DType>,
) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    let mut bytes = Vec::new();
    let mut has_version = false;
    for (key, range) in gguf.metadata.pairs() {
        if dtype.is_some() && key == FILE_TYPE {
            continue;
        }
        has_version |= key == QUANTIZATION_VERSION;
        // The header was in memory once, when it was parsed.
        bytes.resize((range.end - range.start) as usize, 0);
        source.read_at(range.start, &mut bytes).await?;
        pairs.copied(key, &bytes);
    }
    if let Some(dtype) = dtype {
        pairs.u32(FILE_TYPE, file_type(dtype));
        if !has_version {
            pairs.u32(QUANTIZATION_VERSION, 2);
        }
    }
    Ok(pairs)
}

/// The pairs of a model that was in safetensors, whose matrices are of `dtype`.
pub(super) fn described(checkpoint: &Checkpoint, dtype: DType, name: &str) -> Result<Pairs> {
    let config = &checkpoint.config;
    let key = |field: &str| format!("{}.{field}", config.model_type);
    let mut pairs = Pairs::default();
    pairs.string("general.architecture", &config.model_type);
    pairs.string("general.type", "model");
    pairs.string("general.name", name);
    for (field, size) in [
        ("block_count", config.num_hidden_layers),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab_size),
    ] {
        pairs.u32(&key(field), small(field, size)?);
    }
    pairs.f32(&key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    pairs.f32(&key("rope.freq_base"), config.rope_theta);
    match config.rope_scaling {
        None => {}
        Some(RopeScaling::Linear { factor }) => {
            pairs.string(&key("rope.scaling.type"), "linear");
            pairs.f32(&key("rope.scaling.factor"), factor);
        }
        // The rest is in the tensor `rope_freqs.weight`.
        Some(RopeScaling::Llama3 { original_max_position_embeddings: original, .. }) => {
            let field = "rope.scaling.original_context_length";
            pairs.u32(&key(field), small(field, original)?);
        }
    }
    pairs.u32(FILE_TYPE, file_type(dtype));
    pairs.u32(QUANTIZATION_VERSION, 2);
    let TokenizerFile::Json(json) = &checkpoint.tokenizer else {
        return Err(Error::invalid("the tokenizer is a GGUF's already"));
    };
    write_tokenizer(&mut pairs, &tokenizer::from_json(config, json)?);
    end_tokens(&mut pairs, checkpoint);
    if let Some(template) = &checkpoint.chat_template {
        pairs.string("tokenizer.chat_template", template);
    }
    Ok(pairs)
}

fn small(field: &str, size: usize) -> Result<u32> {
    u32::try_from(size)
        .map_err(|_| Error::invalid(format!("{field} is {size}, beyond what GGUF counts")))
}

fn write_tokenizer(pairs: &mut Pairs, tokenizer: &GgufTokenizer) {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    pairs.string(&key("model"), &tokenizer.model);
    if let Some(pre) = &tokenizer.pre {
        pairs.string(&key("pre"), pre);
    }
    pairs.strings(&key("tokens"), &tokenizer.tokens);
    pairs.i32s(&key("token_type"), &tokenizer.token_type);
    if let Some(scores) = &tokenizer.scores {
        pairs.f32s(&key("scores"), scores);
    }
    if !tokenizer.merges.is_empty() {
        pairs.strings(&key("merges"), &tokenizer.merges);
    }
    for (name, id) in [("bos", tokenizer.bos_token_id), ("unknown", tokenizer.unk_token_id)] {
        if let Some(id) = id {
            pairs.u32(&key(&format!("{name}_token_id")), id);
        }
    }
    for (name, flag) in [
        ("add_bos_token", tokenizer.add_bos_token),
        ("add_space_prefix", tokenizer.add_space_prefix),
    ] {
        if let Some(flag) = flag {
            pairs.bool(&key(name), flag);
        }
    }
}

/// The tokens that end an answer, of which GGUF has three kinds: of a text, of a turn, of a message.
fn end_tokens(pairs: &mut Pairs, checkpoint: &Checkpoint) {
    let ids = &checkpoint.config.eos_token_ids;
    for (kind, id) in ["eos", "eot", "eom"].into_iter().zip(ids) {
        pairs.u32(&format!("tokenizer.ggml.{kind}_token_id"), *id);
    }
    if let Some(rest) = ids.get(3..).filter(|rest| !rest.is_empty()) {
        tracing::warn!("GGUF has no place for the end tokens {rest:?}");
    }
}
