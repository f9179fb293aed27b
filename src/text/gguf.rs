//! A `tokenizers` pipeline from the metadata of a GGUF file.
//!
//! The file holds the vocabulary and the merges; how text is cut before BPE is only a name in it
//! (`tokenizer.ggml.pre`), whose meaning is llama.cpp's (`src/llama-vocab.cpp`).

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, BpeBuilder, Merges, Vocab};
use tokenizers::normalizers::{NFC, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::decoding::Decoding;
use crate::formats::GgufTokenizer;
use crate::{Error, Result};

/// `tokenizer.ggml.token_type`.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// GPT-2's words, without its last alternative: what no alternative takes stays a piece anyway.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// llama.cpp's rules for a file that does not say how it wants to be cut, in their order.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// The pipeline, how its tokens become text, and the token that goes in front of a text.
pub(super) fn build(metadata: &GgufTokenizer) -> Result<(Tokenizer, Decoding, Option<u32>)> {
    check(metadata)?;
    let (mut tokenizer, decoding) = match metadata.model.as_str() {
        "gpt2" => (byte_level(metadata)?, Decoding::ByteLevel),
        "llama" => sentencepiece(metadata)?,
        other => {
            return Err(Error::format(
                "tokenizer.ggml.model",
                format!("{other:?} is not supported; it must be gpt2 or llama"),
            ));
        }
    };
    // `normalized(false)`: special tokens are looked for in the text as it was given.
    let added = |kind: &[i32], special| -> Vec<AddedToken> {
        let of_kind = metadata.tokens.iter().zip(&metadata.token_type);
        of_kind
            .filter(|(_, token_type)| kind.contains(token_type))
            .map(|(token, _)| AddedToken::from(token.as_str(), special).normalized(false))
            .collect()
    };
    tokenizer.add_special_tokens(&added(&[UNKNOWN, CONTROL], true));
    tokenizer.add_tokens(&added(&[USER_DEFINED], false));

    let by_default = metadata.model == "llama" || metadata.pre.as_deref() == Some("llama-bpe");
    let bos = metadata.bos_token_id.filter(|_| metadata.add_bos_token.unwrap_or(by_default));
    Ok((tokenizer, decoding, bos))
}

/// The lists must fit together before they are used.
fn check(metadata: &GgufTokenizer) -> Result<()> {
    let count = metadata.tokens.len();
    if count == 0 || u32::try_from(count).is_err() {
        return Err(Error::format(
            "tokenizer.ggml.tokens",
            format!("{count} tokens; the file has no usable vocabulary"),
        ));
    }
    let scores = metadata.scores.as_ref().map_or(0, Vec::len);
    for (key, length) in [("token_type", metadata.token_type.len()), ("scores", scores)] {
        if length != 0 && length != count {
            return Err(Error::format(
                format!("tokenizer.ggml.{key}"),
                format!("{length} entries for {count} tokens; the file is damaged"),
            ));
        }
    }
    for (key, id) in [
        ("bos", metadata.bos_token_id),
        ("eos", metadata.eos_token_id),
        ("unknown", metadata.unk_token_id),
        ("padding", metadata.pad_token_id),
        ("eot", metadata.eot_token_id),
    ] {
        if let Some(id) = id.filter(|&id| id as usize >= count) {
            return Err(Error::format(
                format!("tokenizer.ggml.{key}_token_id"),
                format!("{id} is outside the vocabulary of {count}"),
            ));
        }
    }
    Ok(())
}

/// GPT-2's kind: bytes spelled as characters, merges in the file.
fn byte_level(metadata: &GgufTokenizer) -> Result<Tokenizer> {
    let bytes = ByteLevel::new(false, true, false);
    let steps: Vec<PreTokenizerWrapper> = match metadata.pre.as_deref().unwrap_or("default") {
        "smollm" => vec![Digits::new(true).into(), bytes.use_regex(true).into()],
        "gpt-2" => vec![bytes.use_regex(true).into()],
        "llama-bpe" => vec![split(LLAMA3)?, bytes.into()],
        "qwen2" => vec![split(QWEN2)?, bytes.into()],
        "default" => {
            let mut steps = DEFAULT.into_iter().map(split).collect::<Result<Vec<_>>>()?;
            steps.push(bytes.into());
            steps
        }
        other => {
            return Err(Error::format(
                "tokenizer.ggml.pre",
                format!(
                    "{other:?} is not supported (smollm, gpt-2, llama-bpe, qwen2 and default are): \
                     put the model's tokenizer.json beside the file"
                ),
            ));
        }
    };
    let merges = metadata
        .merges
        .iter()
        .enumerate()
        .map(|(i, merge)| {
            let pair = merge.split_once(' ').filter(|(left, right)| {
                !left.is_empty() && !right.is_empty() && !right.contains(' ')
            });
            pair.map(|(left, right)| (left.to_owned(), right.to_owned())).ok_or_else(|| {
                Error::format(
                    "tokenizer.ggml.merges",
                    format!("entry {i}, {merge:?}, is not two tokens with a space between"),
                )
            })
        })
        .collect::<Result<Merges>>()?;
    // Llama 3 takes a word that is a token as it is, whatever the merges would make of it.
    let builder = BPE::builder().ignore_merges(metadata.pre.as_deref() == Some("llama-bpe"));
    let mut tokenizer = bpe(builder, vocabulary(metadata), merges)?;
    if metadata.pre.as_deref() == Some("qwen2") {
        tokenizer.with_normalizer(Some(NFC));
    }
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// Llama 2's kind: `▁` for spaces, bytes for characters outside the vocabulary, scores in place
/// of merges.
fn sentencepiece(metadata: &GgufTokenizer) -> Result<(Tokenizer, Decoding)> {
    let scores = metadata.scores.as_deref().unwrap_or_default();
    if scores.is_empty() || scores.iter().any(|score| score.is_nan()) {
        return Err(Error::format(
            "tokenizer.ggml.scores",
            "missing or not numbers; a llama tokenizer needs one score per token",
        ));
    }
    let mut builder = BPE::builder().byte_fallback(true).fuse_unk(true);
    if let Some(token) = metadata.unk_token_id.and_then(|id| metadata.tokens.get(id as usize)) {
        builder = builder.unk_token(token.clone());
    }
    let vocab = vocabulary(metadata);
    let merges = merges_of_scores(metadata, &vocab, scores);
    let mut tokenizer = bpe(builder, vocab, merges)?;

    let space = || {
        Replace::new(" ", "▁")
            .map_err(|error| Error::format("tokenizer.ggml.model", error.to_string()))
    };
    let prefixed = metadata.add_space_prefix.unwrap_or(true);
    tokenizer.with_normalizer(Some(if prefixed {
        Normalizers::new(vec![Prepend::new("▁".into()).into(), space()?.into()])
    } else {
        Normalizers::new(vec![space()?.into()])
    }));
    let strip = usize::from(prefixed);
    let back = Replace::new("▁", " ")
        .map_err(|error| Error::format("tokenizer.ggml.model", error.to_string()))?;
    let mut steps: Vec<DecoderWrapper> =
        vec![back.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefixed {
        steps.push(Strip::new(' ', strip, 0).into());
    }
    tokenizer.with_decoder(Some(tokenizers::decoders::sequence::Sequence::new(steps)));
    Ok((tokenizer, Decoding::SentencePiece { strip }))
}

/// SentencePiece merges the pair whose union has the best score. As a list of merges: every way
/// to cut every token in two tokens, the best score first, and within a token in the order of
/// Hugging Face's conversion (`generate_merges`): longer left parts first.
fn merges_of_scores(metadata: &GgufTokenizer, vocab: &Vocab, scores: &[f32]) -> Merges {
    let mut merges: Vec<(f32, usize, &str, &str)> = Vec::new();
    for (token, &score) in metadata.tokens.iter().zip(scores) {
        // Counted in characters, as Python does.
        for (left_len, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if vocab.contains_key(left) && vocab.contains_key(right) {
                merges.push((score, left_len, left, right));
            }
        }
    }
    merges.sort_by(|a, b| {
        let right_len = |merge: &(f32, usize, &str, &str)| merge.3.chars().count();
        b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then_with(|| right_len(b).cmp(&right_len(a)))
    });
    merges.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect()
}

/// Token to id; of equal tokens the last counts, as in llama.cpp.
fn vocabulary(metadata: &GgufTokenizer) -> Vocab {
    metadata.tokens.iter().cloned().zip(0..).collect()
}

fn bpe(builder: BpeBuilder, vocab: Vocab, merges: Merges) -> Result<Tokenizer> {
    let model = builder.vocab_and_merges(vocab, merges).build();
    let model = model.map_err(|error| Error::format("tokenizer.ggml.merges", error.to_string()))?;
    Ok(Tokenizer::new(model))
}

fn split(pattern: &str) -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| Error::format("tokenizer.ggml.pre", error.to_string()))?;
    Ok(split.into())
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::{sentencepiece_metadata, tiny_metadata};
    use super::*;
    use crate::testing::test;

    fn error_of(change: impl FnOnce(&mut GgufTokenizer)) -> String {
        let mut metadata = tiny_metadata();
        change(&mut metadata);
        build(&metadata).unwrap_err().to_string()
    }

    #[test]
    fn each_fault_names_its_key() {
        assert!(error_of(|m| m.model = "bert".into()).starts_with("tokenizer.ggml.model: "));
        assert!(error_of(|m| m.pre = Some("tekken".into())).starts_with("tokenizer.ggml.pre: "));
        assert!(error_of(|m| m.tokens.clear()).starts_with("tokenizer.ggml.tokens: "));
        assert!(error_of(|m| m.token_type.truncate(3)).contains("token_type: 3 entries for 262"));
        assert!(error_of(|m| m.eos_token_id = Some(262)).contains("eos_token_id: 262"));
        for merge in ["", " ", "he", "h ", " e", "h e x", "h zz"] {
            let error = error_of(|m| m.merges.push(merge.into()));
            assert!(error.starts_with("tokenizer.ggml.merges: "), "{merge:?}: {error}");
        }
        let mut llama = sentencepiece_metadata();
        llama.scores = None;
        assert!(build(&llama).unwrap_err().to_string().starts_with("tokenizer.ggml.scores: "));
    }

    #[test]
    fn bos_is_llamas_unless_the_file_says_otherwise() {
        let mut metadata = tiny_metadata();
        metadata.bos_token_id = Some(260);
        assert_eq!(build(&metadata).unwrap().2, None);
        metadata.add_bos_token = Some(true);
        assert_eq!(build(&metadata).unwrap().2, Some(260));
        assert_eq!(build(&sentencepiece_metadata()).unwrap().2, Some(1));
    }

    #[test]
    fn user_defined_tokens_are_found_but_not_special() {
        let mut metadata = tiny_metadata();
        metadata.tokens.push("a b".into());
        metadata.token_type.push(USER_DEFINED);
        let (tokenizer, ..) = build(&metadata).unwrap();
        assert_eq!(tokenizer.encode("xa bx", false).unwrap().get_ids()[1], 262);
        assert!(!tokenizer.get_added_vocabulary().is_special_token("a b"));
    }

    #[test]
    fn scores_order_the_merges() {
        let metadata = sentencepiece_metadata();
        let merges = merges_of_scores(
            &metadata,
            &vocabulary(&metadata),
            metadata.scores.as_deref().unwrap(),
        );
        let merges: Vec<_> = merges.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
        assert_eq!(merges, [("▁", "t"), ("h", "e"), ("▁t", "he")]);
    }
}
