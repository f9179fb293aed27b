//! A `tokenizer.json` in the words of GGUF.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::formats::GgufTokenizer;
use crate::model::ModelConfig;
use crate::text::Tokenizer;
use crate::{Error, Result};

const NAME: &str = "tokenizer.json";

/// The names of ways to cut text before BPE (`tokenizer.ggml.pre`) that are tried.
const PRE: [&str; 5] = ["smollm", "gpt-2", "llama-bpe", "qwen2", "default"];

/// What the ways to cut differ on: spaces, digits, contractions, scripts, emojis. After the text
/// that llama.cpp's converter tells them apart by.
const SAMPLE: &str = "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫️ (multiple \
    emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 \
    ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been \
    'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Text(text) => text.split_once(' '),
            Merge::Pair(left, right) => Some((left, right)),
        }
    }
}

/// The `tokenizer.json` of a model of `config` as GGUF describes one, with a token for each row of the
/// embedding, since llama.cpp counts them.
///
/// # Errors
/// When it is not BPE as GPT-2 or Llama has it, or when no tokenizer that GGUF has a name for gives
/// the same ids for a text with a bit of everything.
pub(super) fn from_json(config: &ModelConfig, json: &[u8]) -> Result<GgufTokenizer> {
    let original = Tokenizer::from_json(NAME, json)?;
    let file: File =
        serde_json::from_slice(json).map_err(|error| Error::format(NAME, error.to_string()))?;
    let mut found = tokens(&file, config.vocab_size)?;
    found.bos_token_id = config.bos_token_id;
    found.add_bos_token = Some(adds_bos(&file));
    let expected = original.encode(SAMPLE, true)?;
    let gives_the_same = |candidate: &GgufTokenizer| {
        let tokenizer = Tokenizer::from_gguf(candidate)?;
        Ok::<_, Error>(tokenizer.encode(SAMPLE, true)? == expected)
    };
    if file.model.byte_fallback {
        found.model = "llama".into();
        found.pre = Some("default".into());
        found.scores = Some(scores(&file, &found.tokens));
        found.add_space_prefix = Some(adds_space(&file));
        if gives_the_same(&found)? {
            return Ok(found);
        }
    } else {
        found.model = "gpt2".into();
        found.merges = merges(&file)?;
        for pre in PRE {
            found.pre = Some(pre.into());
            if gives_the_same(&found)? {
                return Ok(found);
            }
        }
    }
    Err(Error::format(
        NAME,
        format!(
            "cuts text in a way that GGUF has no name for here ({} and Llama 2's are known)",
            PRE.join(", ")
        ),
    ))
}

/// Tokens and their types.
fn tokens(file: &File, count: usize) -> Result<GgufTokenizer> {
    let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
    let mut token_type = vec![UNUSED; count];
    let unk = file.model.unk_token.as_deref().filter(|_| file.model.byte_fallback);
    let plain = file.model.vocab.iter().map(|(token, &id)| {
        let kind = match token {
            token if unk == Some(token) => UNKNOWN,
            token if file.model.byte_fallback && is_byte(token) => BYTE,
            _ => NORMAL,
        };
        (token, id, kind)
    });
    let added = file.added_tokens.iter().map(|Added { id, content, special }| {
        let kind = match special {
            true if unk == Some(content) => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        (content, *id, kind)
    });
    for (token, id, kind) in plain.chain(added) {
        let id = id as usize;
        let (Some(place), Some(of_kind)) = (tokens.get_mut(id), token_type.get_mut(id)) else {
            return Err(Error::format(
                NAME,
                format!("token {token:?} has the id {id}, but the model has {count} tokens"),
            ));
        };
        place.clone_from(token);
        *of_kind = kind;
    }
    let unk_token_id = unk.and_then(|unk| file.model.vocab.get(unk)).copied();
    Ok(GgufTokenizer { tokens, token_type, unk_token_id, ..GgufTokenizer::default() })
}

/// `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Whether it is a byte as SentencePiece spells one: `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

fn merges(file: &File) -> Result<Vec<String>> {
    let text = |merge: &Merge| {
        let pair = merge.pair().filter(|(a, b)| !a.contains(' ') && !b.contains(' '));
        pair.map(|(left, right)| format!("{left} {right}"))
    };
    let merges: Option<Vec<String>> = file.model.merges.iter().map(text).collect();
    merges.ok_or_else(|| Error::format(NAME, "has a merge that is not of two tokens"))
}

/// SentencePiece merges what has the best score: here what is merged first.
fn scores(file: &File, tokens: &[String]) -> Vec<f32> {
    let mut rank: BTreeMap<String, usize> = BTreeMap::new();
    for (i, merge) in file.model.merges.iter().enumerate() {
        if let Some((left, right)) = merge.pair() {
            rank.entry(format!("{left}{right}")).or_insert(i);
        }
    }
    let last = file.model.merges.len();
    tokens.iter().map(|token| -(rank.get(token).copied().unwrap_or(last) as f32)).collect()
}

/// Whether the post-processor begins with a special token.
fn adds_bos(file: &File) -> bool {
    let Some(post) = &file.post_processor else { return false };
    let one = std::slice::from_ref(post);
    let all = post["processors"].as_array().map_or(one, Vec::as_slice);
    all.iter().any(|processor| processor["single"][0]["SpecialToken"].is_object())
}

/// Whether a text gets a space in front, by the normalizer or by the pre-tokenizer.
fn adds_space(file: &File) -> bool {
    let has = |part: &Option<Value>, list: &str, test: fn(&Value) -> bool| {
        part.as_ref().is_some_and(|part| {
            test(part) || part[list].as_array().is_some_and(|parts| parts.iter().any(test))
        })
    };
    has(&file.normalizer, "normalizers", |part| part["type"] == "Prepend")
        || has(&file.pre_tokenizer, "pretokenizers", |part| {
            part["type"] == "Metaspace" && part["prepend_scheme"] != "never"
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use crate::text::tokenizer::tests::{sentencepiece_metadata, tiny_metadata};

    fn config(vocab_size: usize) -> ModelConfig {
        let json = format!(
            r#"{{"model_type": "llama", "vocab_size": {vocab_size}, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "bos_token_id": 1}}"#
        );
        ModelConfig::from_json("config.json", json.as_bytes()).unwrap()
    }

    fn json(tokenizer: &GgufTokenizer) -> Vec<u8> {
        Tokenizer::from_gguf(tokenizer).unwrap().to_json().unwrap()
    }

    #[test]
    fn byte_level_comes_back_with_its_way_to_cut() {
        // Long numbers and spaces before words are merged, or the ways would all be one.
        for pre in PRE {
            let mut tokenizer = tiny_metadata();
            tokenizer.pre = Some(pre.into());
            let count = tokenizer.tokens.len();
            let found = from_json(&config(count), &json(&tokenizer)).unwrap();
            assert_eq!((&found.tokens, &found.merges), (&tokenizer.tokens, &tokenizer.merges));
            assert_eq!(found.token_type, tokenizer.token_type);
            let (a, b) = (Tokenizer::from_gguf(&found), Tokenizer::from_gguf(&tokenizer));
            let (a, b) = (a.unwrap(), b.unwrap());
            assert_eq!(a.encode(SAMPLE, true).unwrap(), b.encode(SAMPLE, true).unwrap(), "{pre}");
        }
        let smollm = from_json(&config(262), &json(&tiny_metadata())).unwrap();
        assert_eq!(smollm.pre.as_deref(), Some("smollm"));
        assert_eq!(smollm.add_bos_token, Some(false));
        let padded = from_json(&config(264), &json(&tiny_metadata())).unwrap();
        assert_eq!(padded.tokens[262..], ["[PAD262]", "[PAD263]"]);
        assert_eq!(padded.token_type[261..], [3, 5, 5]);
    }

    #[test]
    fn sentencepiece_comes_back_with_scores_and_start_token() {
        let tokenizer = sentencepiece_metadata();
        let found = from_json(&config(266), &json(&tokenizer)).unwrap();
        assert_eq!((found.model.as_str(), found.add_bos_token), ("llama", Some(true)));
        assert_eq!((&found.tokens, &found.token_type), (&tokenizer.tokens, &tokenizer.token_type));
        assert_eq!((found.unk_token_id, found.add_space_prefix), (Some(0), Some(true)));
        let scores = found.scores.unwrap();
        assert!(scores[259] > scores[260] && scores[260] > scores[261], "{scores:?}");
    }

    #[test]
    fn what_gguf_has_no_words_for_is_named() {
        let problem = |count, change: fn(&mut Value)| {
            let mut file: Value = serde_json::from_slice(&json(&tiny_metadata())).unwrap();
            change(&mut file);
            from_json(&config(count), file.to_string().as_bytes()).unwrap_err().to_string()
        };
        for (problem, named) in [
            (problem(200, |_| ()), "but the model has 200 tokens"),
            (
                problem(262, |file| file["normalizer"] = serde_json::json!({"type": "Lowercase"})),
                "cuts text in a way that GGUF has no name for",
            ),
            (
                problem(262, |file| file["model"]["merges"] = serde_json::json!(["a"])),
                "Merges text",
            ),
        ] {
            assert!(
                problem.starts_with("tokenizer.json: ") && problem.contains(named),
                "{problem}"
            );
        }
    }
}
