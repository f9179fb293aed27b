//! The tokenizer that a GGUF file carries in its metadata.

/// The `tokenizer.ggml.*` keys of a GGUF file, as they stand there.
///
/// [`crate::text::Tokenizer::from_gguf`] makes a tokenizer of it. The keys are described in the
/// GGUF specification (ggml, `docs/gguf.md`, "Tokenizer").
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is cut before BPE.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the vocabulary, token by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: per token 1 normal, 2 unknown, 3 control, 4 user-defined,
    /// 5 unused, 6 byte; empty where the key is missing (all normal).
    pub token_type: Vec<i32>,
    /// `tokenizer.ggml.merges`: pairs `left right`, the strongest first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.scores`: one per token, of SentencePiece models.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_token_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos_token_id: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk_token_id: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad_token_id: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: ends a turn of a chat.
    pub eot_token_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`: whether a text starts with the BOS token.
    pub add_bos_token: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: whether a text gets a space in front (SentencePiece).
    pub add_space_prefix: Option<bool>,
}
