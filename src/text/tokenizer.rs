//! The tokenizer: text to ids and back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use super::decoding::Decoding;
use super::gguf;
use crate::formats::GgufTokenizer;
use crate::{Error, Result};

/// Text to token ids and back, with the ids of Hugging Face's `tokenizers`.
///
/// Byte-level BPE (SmolLM, GPT-2, Llama 3, Qwen 2) and SentencePiece BPE with byte fallback
/// (Llama 2, TinyLlama). A clone shares the vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tokenizer: tokenizers::Tokenizer,
    decoding: Decoding,
    /// Put in front by `add_special_tokens`, where no post-processor does it.
    bos: Option<u32>,
    special: BTreeMap<u32, String>,
    vocab_size: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; `name` is what errors call it.
    ///
    /// Truncation, padding and BPE dropout that the file asks for are left out: they belong to
    /// the run in which it was saved.
    ///
    /// # Errors
    /// [`Error::Format`] if it is not JSON, not a tokenizer, or one of another kind than BPE with
    /// the decoder of GPT-2 or of Llama.
    pub fn from_json(name: &str, json: &[u8]) -> Result<Self> {
        let mut file: Value = serde_json::from_slice(json)
            .map_err(|error| Error::format(name, format!("not a tokenizer.json: {error}")))?;
        let model = &file["model"];
        let kind = model["type"].as_str().unwrap_or("BPE");
        // `tokenizers` cuts the prefix off without checking that it is there.
        let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("");
        if kind != "BPE" || !model["merges"].is_array() || !prefix.is_empty() {
            let what =
                if kind == "BPE" { "BPE without merges or with a subword prefix" } else { kind };
            return Err(Error::format(
                name,
                format!("its model is {what}; only BPE as GPT-2 or Llama has it is supported"),
            ));
        }
        let decoding = Decoding::from_json(name, &file["decoder"])?;
        for key in ["truncation", "padding"] {
            file[key] = Value::Null;
        }
        file["model"]["dropout"] = Value::Null;
        keep_offsets(&mut file["post_processor"]);
        let tokenizer = serde_json::from_value(file)
            .map_err(|error| Error::format(name, format!("not a usable tokenizer: {error}")))?;
        Ok(Self::new(tokenizer, decoding, None))
    }

    /// Builds the tokenizer that a GGUF file describes.
    ///
    /// `tokenizer.ggml.model` may be `gpt2`, with `tokenizer.ggml.pre` one of `smollm`, `gpt-2`,
    /// `llama-bpe`, `qwen2`, `default` (or missing, which is the same), or `llama`.
    ///
    /// # Errors
    /// [`Error::Format`], named after the metadata key at fault.
    pub fn from_gguf(metadata: &GgufTokenizer) -> Result<Self> {
        let (tokenizer, decoding, bos) = gguf::build(metadata)?;
        Ok(Self::new(tokenizer, decoding, bos))
    }

    /// A `tokenizer.json` of it, from which [`Self::from_json`] reads the same.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it can't be written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let refused = |error| Error::invalid(format!("the tokenizer can't be written: {error}"));
        let mut file = serde_json::to_value(&self.inner.tokenizer).map_err(refused)?;
        if let Some(bos) = self.inner.bos {
            let token = self.known_token(bos)?;
            let special = |segment: u32| json!({"SpecialToken": {"id": token, "type_id": segment}});
            let text = |of: &str, segment: u32| json!({"Sequence": {"id": of, "type_id": segment}});
            file["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": [special(0), text("A", 0)],
                "pair": [special(0), text("A", 0), special(1), text("B", 1)],
                "special_tokens": {&*token: {"id": token, "ids": [bos], "tokens": [token]}},
            });
        }
        serde_json::to_vec(&file).map_err(refused)
    }

    fn new(tokenizer: tokenizers::Tokenizer, decoding: Decoding, bos: Option<u32>) -> Self {
        let special = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        let largest = tokenizer.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(0, |id| id as usize + 1);
        Self { inner: Arc::new(Inner { tokenizer, decoding, bos, special, vocab_size }) }
    }

    /// The ids of a text.
    ///
    /// Special tokens that stand in the text become their ids, as Hugging Face has it; so a text
    /// from an untrusted hand can hold them. `add_special_tokens` adds those that the model wants
    /// around every text (Llama's BOS; nothing for SmolLM).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the tokenizer's own rules fail on the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .tokenizer
            .encode_fast(text, add_special_tokens)
            .map_err(|error| Error::invalid(format!("can't tokenise the text: {error}")))?;
        let bos = self.inner.bos.filter(|_| add_special_tokens);
        Ok(bos.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// The ids of a text without special tokens around it, each with the bytes that it stands for;
    /// those of one character that are several ids are each of the whole character.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = self
            .inner
            .tokenizer
            .encode(text, false)
            .map_err(|error| Error::invalid(format!("can't tokenise the text: {error}")))?;
        let offsets = encoding.get_offsets().iter().map(|&(begin, end)| begin..end);
        Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
    }

    /// The text of some ids; bytes that are not UTF-8 become replacement characters.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let mut decoder = self.decoding().start();
        let mut text = String::new();
        for &id in ids {
            let token = self.known_token(id)?;
            if !(skip_special_tokens && self.is_special(id)) {
                decoder.push(&token, &mut text);
            }
        }
        decoder.finish(&mut text);
        Ok(text)
    }

    /// The id of a token as the vocabulary spells it (`Ġthe`, `<|im_end|>`).
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// A token as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.tokenizer.id_to_token(id)
    }

    /// One more than the largest id. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// Whether an id is a special token, which [`decode`](Self::decode) can leave out.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.special.contains_key(&id)
    }

    /// The special tokens, by id.
    pub fn special_tokens(&self) -> impl Iterator<Item = (u32, &str)> {
        self.inner.special.iter().map(|(&id, token)| (id, token.as_str()))
    }

    pub(super) fn decoding(&self) -> Decoding {
        self.inner.decoding
    }

    pub(super) fn known_token(&self, id: u32) -> Result<String> {
        self.token(id).ok_or_else(|| {
            Error::invalid(format!(
                "token {id} is not in the vocabulary of {}: is this the model's own tokenizer?",
                self.vocab_size()
            ))
        })
    }
}

/// Has a post-processor leave white space in the offsets of tokens.
fn keep_offsets(processor: &mut Value) {
    if let Some(trim) = processor.get_mut("trim_offsets") {
        *trim = Value::Bool(false);
    }
    if let Some(Value::Array(parts)) = processor.get_mut("processors") {
        parts.iter_mut().for_each(keep_offsets);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::test;

    impl Tokenizer {
        /// The tokenizer underneath, as the reference for decoding.
        pub(in crate::text) fn hugging_face(&self) -> &tokenizers::Tokenizer {
            &self.inner.tokenizer
        }
    }

    /// The 256 bytes, `Ġt`, `he`, `Ġthe`, then two control tokens.
    pub(in crate::text) fn tiny() -> Tokenizer {
        Tokenizer::from_gguf(&tiny_metadata()).unwrap()
    }

    pub(crate) fn tiny_metadata() -> GgufTokenizer {
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let mut tokens: Vec<String> = alphabet.into_iter().map(String::from).collect();
        tokens.extend(["Ġt", "he", "Ġthe", "11", "<|im_start|>", "<|im_end|>"].map(String::from));
        let mut token_type = vec![1; 260];
        token_type.extend([3, 3]);
        GgufTokenizer {
            model: "gpt2".into(),
            pre: Some("smollm".into()),
            tokens,
            token_type,
            merges: ["Ġ t", "h e", "Ġt he", "1 1"].map(String::from).to_vec(),
            eos_token_id: Some(261),
            ..GgufTokenizer::default()
        }
    }

    /// Llama's kind: `<unk> <s> </s>`, the 256 bytes, then a few pieces.
    pub(in crate::text) fn sentencepiece() -> Tokenizer {
        Tokenizer::from_gguf(&sentencepiece_metadata()).unwrap()
    }

    pub(crate) fn sentencepiece_metadata() -> GgufTokenizer {
        let mut tokens = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        let mut token_type = vec![2, 3, 3];
        token_type.extend([6; 256]);
        let mut scores = vec![0.0; tokens.len()];
        // SentencePiece gives a merged piece the negative of its rank, a character far less.
        for (piece, score) in [
            ("▁t", -0.0),
            ("he", -1.0),
            ("▁the", -2.0),
            ("▁", -100.0),
            ("t", -101.0),
            ("h", -102.0),
            ("e", -103.0),
        ] {
            tokens.push(piece.into());
            token_type.push(1);
            scores.push(score);
        }
        GgufTokenizer {
            model: "llama".into(),
            tokens,
            token_type,
            scores: Some(scores),
            bos_token_id: Some(1),
            eos_token_id: Some(2),
            unk_token_id: Some(0),
            ..GgufTokenizer::default()
        }
    }

    fn spelled(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<String> {
        let ids = tokenizer.encode(text, special).unwrap();
        ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect()
    }

    #[test]
    fn byte_level_bpe_merges_and_finds_special_tokens() {
        let tokenizer = tiny();
        assert_eq!(spelled(&tokenizer, " the<|im_end|>he", true), ["Ġthe", "<|im_end|>", "he"]);
        assert_eq!(spelled(&tokenizer, "é", false), ["Ã", "©"]);
        assert_eq!(tokenizer.encode("", true).unwrap(), [0; 0]);
    }

    #[test]
    fn smollm_takes_digits_one_by_one_and_gpt2_does_not() {
        let mut metadata = tiny_metadata();
        assert_eq!(spelled(&tiny(), "11", false), ["1", "1"]);
        for pre in [Some("gpt-2"), Some("default"), None, Some("llama-bpe")] {
            metadata.pre = pre.map(str::to_owned);
            let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
            assert_eq!(spelled(&tokenizer, "11", false), ["11"], "{pre:?}");
        }
        metadata.pre = Some("qwen2".into());
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        assert_eq!(spelled(&tokenizer, "11", false), ["1", "1"]);
    }

    #[test]
    fn the_vocabulary_can_be_asked() {
        let tokenizer = tiny();
        assert_eq!(tokenizer.vocab_size(), 262);
        assert_eq!(tokenizer.token_id("<|im_end|>"), Some(261));
        assert_eq!(tokenizer.token(262), None);
        assert!(tokenizer.is_special(260) && !tokenizer.is_special(259));
        let special: Vec<_> = tokenizer.special_tokens().collect();
        assert_eq!(special, [(260, "<|im_start|>"), (261, "<|im_end|>")]);
        assert!(tokenizer.decode(&[262], true).unwrap_err().to_string().contains("262"));
        assert_eq!(tokenizer.decode(&[258, 261], true).unwrap(), " the");
        assert_eq!(tokenizer.decode(&[258, 261], false).unwrap(), " the<|im_end|>");
    }

    #[test]
    fn sentencepiece_puts_a_space_and_bos_in_front_and_falls_back_to_bytes() {
        let tokenizer = sentencepiece();
        assert_eq!(spelled(&tokenizer, "the", true), ["<s>", "▁the"]);
        assert_eq!(spelled(&tokenizer, "the é", false), ["▁the", "▁", "<0xC3>", "<0xA9>"]);
        let ids = tokenizer.encode("the é", true).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the é");

        let mut metadata = sentencepiece_metadata();
        metadata.add_space_prefix = Some(false);
        metadata.add_bos_token = Some(false);
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        assert_eq!(spelled(&tokenizer, "the", true), ["t", "he"]);
    }

    #[test]
    fn json_gives_the_ids_of_the_gguf() {
        let gguf = tiny();
        let json = gguf.hugging_face().to_string(false).unwrap();
        let mut json: Value = serde_json::from_str(&json).unwrap();
        // What a saved file may carry and a run must not.
        json["truncation"] = json!({"direction": "Right", "max_length": 1,
            "strategy": "LongestFirst", "stride": 0});
        json["model"]["dropout"] = json!(1.0);
        let tokenizer =
            Tokenizer::from_json("tokenizer.json", json.to_string().as_bytes()).unwrap();
        for text in [" the the 11<|im_end|>", "x\r\n  y"] {
            assert_eq!(tokenizer.encode(text, true).unwrap(), gguf.encode(text, true).unwrap());
        }
        assert_eq!(tokenizer.vocab_size(), gguf.vocab_size());

        let llama = sentencepiece().hugging_face().to_string(false).unwrap();
        let llama = Tokenizer::from_json("tokenizer.json", llama.as_bytes()).unwrap();
        assert_eq!(llama.decoding(), sentencepiece().decoding());
    }

    #[test]
    fn json_of_another_kind_is_one_clear_line() {
        let good: Value =
            serde_json::from_str(&tiny().hugging_face().to_string(false).unwrap()).unwrap();
        let with = |path: &str, value: Value| {
            let mut file = good.clone();
            *file.pointer_mut(path).unwrap() = value;
            Tokenizer::from_json("t.json", file.to_string().as_bytes()).unwrap_err().to_string()
        };
        assert!(with("/model/type", json!("Unigram")).contains("Unigram"));
        assert!(with("/model/continuing_subword_prefix", json!("##")).contains("prefix"));
        assert!(with("/model/merges", json!([["x", "nowhere"]])).starts_with("t.json: "));
        assert!(with("/decoder", Value::Null).contains("decoder"));
        for bytes in [&b"{"[..], b"[]", b"null", b"\xff", b"{}"] {
            let error = Tokenizer::from_json("t.json", bytes).unwrap_err().to_string();
            assert!(error.starts_with("t.json: ") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn offsets_are_the_bytes_of_each_token() {
        let text = "<|im_start|> the\n\né  the<|im_end|>";
        let trims = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let mut file: Value =
            serde_json::from_str(&tiny().hugging_face().to_string(false).unwrap()).unwrap();
        file["post_processor"] = json!({"type": "Sequence", "processors": [trims]});
        let trimming = Tokenizer::from_json("x", file.to_string().as_bytes()).unwrap();
        for tokenizer in [tiny(), trimming] {
            let found = tokenizer.encode_with_offsets(text).unwrap();
            let ids: Vec<u32> = found.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, tokenizer.encode(text, false).unwrap());
            let parts: Vec<&str> = found.iter().map(|(_, bytes)| &text[bytes.clone()]).collect();
            assert_eq!(
                parts,
                ["<|im_start|>", " the", "\n", "\n", "é", "é", " ", " the", "<|im_end|>"]
            );
        }
        let found = sentencepiece().encode_with_offsets("the the").unwrap();
        let parts: Vec<Range<usize>> = found.into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(parts, [0..3, 3..7]);
    }
}
