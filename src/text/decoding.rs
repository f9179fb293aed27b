//! From tokens back to text, one token at a time.
//!
//! The two decoders that Llama-like models use, written as streams, so that whole texts and
//! streamed ones are decoded by the same lines. Both give what Hugging Face's `tokenizers` gives.

use serde_json::Value;

use crate::{Error, Result};

/// How the strings of the vocabulary spell bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoding {
    /// GPT-2's: every character of a token stands for one byte ([`byte_of`]).
    ByteLevel,
    /// SentencePiece's: `▁` is a space, `<0xE5>` a byte; up to `strip` spaces are taken off the
    /// front of the text.
    SentencePiece {
        /// Leading spaces taken off.
        strip: usize,
    },
}

impl Decoding {
    /// Reads the `decoder` of a `tokenizer.json` called `name`.
    pub(super) fn from_json(name: &str, decoder: &Value) -> Result<Self> {
        let unsupported = || {
            let kind = decoder["type"].as_str().unwrap_or("none");
            Error::format(
                name,
                format!(
                    "its decoder ({kind}) is not supported: it must be ByteLevel, or the Sequence \
                     Replace, ByteFallback, Fuse, Strip of Llama"
                ),
            )
        };
        match decoder["type"].as_str() {
            Some("ByteLevel") => Ok(Decoding::ByteLevel),
            Some("Sequence") => {
                let steps = decoder["decoders"].as_array().ok_or_else(unsupported)?;
                let kinds: Vec<_> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
                let replaces_space = steps
                    .first()
                    .is_some_and(|step| step["pattern"]["String"] == "▁" && step["content"] == " ");
                let strip = match kinds.as_slice() {
                    ["Replace", "ByteFallback", "Fuse"] => 0,
                    ["Replace", "ByteFallback", "Fuse", "Strip"]
                        if steps[3]["content"] == " " && steps[3]["stop"] == 0 =>
                    {
                        steps[3]["start"].as_u64().ok_or_else(unsupported)?
                    }
                    _ => return Err(unsupported()),
                };
                if !replaces_space {
                    return Err(unsupported());
                }
                Ok(Decoding::SentencePiece { strip: usize::try_from(strip).unwrap_or(usize::MAX) })
            }
            _ => Err(unsupported()),
        }
    }

    /// A decoder at the start of a text.
    pub(super) fn start(self) -> Decoder {
        let strip = match self {
            Decoding::ByteLevel => 0,
            Decoding::SentencePiece { strip } => strip,
        };
        Decoder { decoding: self, pending: Vec::new(), strip }
    }
}

/// A text being decoded.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    decoding: Decoding,
    /// Bytes whose text is not certain yet. Byte level: the start of a character, at most three
    /// bytes. SentencePiece: the run of byte tokens so far, because one byte that is not UTF-8
    /// turns its whole run into replacement characters.
    pending: Vec<u8>,
    /// Spaces that may still be taken off the front.
    strip: usize,
}

impl Decoder {
    /// Adds one token and appends to `out` the text that no later token can change.
    pub(super) fn push(&mut self, token: &str, out: &mut String) {
        match self.decoding {
            Decoding::ByteLevel => {
                let start = self.pending.len();
                self.pending.extend(token.chars().filter_map(byte_of));
                if self.pending.len() - start != token.chars().count() {
                    // An added token with a character outside the alphabet stands for itself.
                    self.pending.truncate(start);
                    self.pending.extend_from_slice(token.as_bytes());
                }
                self.emit_utf8(out);
            }
            Decoding::SentencePiece { .. } => match fallback_byte(token) {
                Some(byte) => self.pending.push(byte),
                None => {
                    self.end_run(out);
                    self.emit_stripped(&token.replace('▁', " "), out);
                }
            },
        }
    }

    /// Ends the text: what is held back can't become a character any more.
    pub(super) fn finish(&mut self, out: &mut String) {
        match self.decoding {
            Decoding::ByteLevel => {
                out.push_str(&String::from_utf8_lossy(&self.pending));
                self.pending.clear();
            }
            Decoding::SentencePiece { .. } => self.end_run(out),
        }
    }

    /// Moves every certain character out of `pending`, with [`char::REPLACEMENT_CHARACTER`] for
    /// each longest invalid sequence, as [`String::from_utf8_lossy`] does.
    fn emit_utf8(&mut self, out: &mut String) {
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            out.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let is_last = done + invalid.len() == self.pending.len();
            if invalid.is_empty() || (is_last && is_prefix_of_char(invalid)) {
                break;
            }
            out.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.pending.drain(..done);
    }

    /// Ends a run of SentencePiece's byte tokens.
    fn end_run(&mut self, out: &mut String) {
        let run = std::mem::take(&mut self.pending);
        let text = String::from_utf8(run).unwrap_or_else(|error| {
            char::REPLACEMENT_CHARACTER.to_string().repeat(error.as_bytes().len())
        });
        self.emit_stripped(&text, out);
    }

    fn emit_stripped(&mut self, mut text: &str, out: &mut String) {
        while self.strip > 0 && !text.is_empty() {
            match text.strip_prefix(' ') {
                Some(rest) => {
                    text = rest;
                    self.strip -= 1;
                }
                None => self.strip = 0,
            }
        }
        out.push_str(text);
    }
}

/// Whether `bytes`, which are not UTF-8, could still become one character.
fn is_prefix_of_char(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 for itself, the
/// other 68 bytes, in order, for the characters from U+0100.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The byte of a token like `<0xE5>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use tokenizers::Decoder as _;
    use tokenizers::decoders::DecoderWrapper;

    use super::*;
    use crate::testing::test;

    fn llama() -> Value {
        json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
    }

    fn byte_level() -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true})
    }

    fn decode(decoder: &Value, tokens: &[String]) -> String {
        let mut stream = Decoding::from_json("t", decoder).unwrap().start();
        let mut out = String::new();
        tokens.iter().for_each(|token| stream.push(token, &mut out));
        stream.finish(&mut out);
        out
    }

    /// Pieces that meet: parts of characters, whole ones, spaces, and text outside the alphabet.
    fn tokens(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(prop::sample::select(pieces).prop_map(str::to_owned), 0..12)
    }

    proptest! {
        #[test]
        fn byte_level_is_hugging_faces(
            tokens in tokens(&["Ġa", "ð", "ŁĺĢ", "Ł", "Ã", "©", "ÿ", "Ċ", "x y", "日", "Ń", "ł", "ĺ"])
        ) {
            let theirs: DecoderWrapper = serde_json::from_value(byte_level()).unwrap();
            prop_assert_eq!(decode(&byte_level(), &tokens), theirs.decode(tokens).unwrap());
        }

        #[test]
        fn sentencepiece_is_hugging_faces(
            tokens in tokens(&["▁", "▁a", "▁▁", "b", "<0xE2>", "<0x82>", "<0xAC>", "<0x20>", "<0xZZ>", "é"])
        ) {
            let theirs: DecoderWrapper = serde_json::from_value(llama()).unwrap();
            prop_assert_eq!(decode(&llama(), &tokens), theirs.decode(tokens).unwrap());
        }
    }

    #[test]
    fn the_alphabet_holds_every_byte_once() {
        let mut bytes: Vec<u8> = ('\0'..='\u{200}').filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    #[test]
    fn other_decoders_are_refused() {
        let error = Decoding::from_json("tokenizer.json", &json!({"type": "WordPiece"}));
        assert!(error.unwrap_err().to_string().contains("WordPiece"));
        assert!(Decoding::from_json("t", &Value::Null).is_err());
        let mut other = llama();
        other["decoders"][0]["content"] = json!("_");
        assert!(Decoding::from_json("t", &other).is_err());
    }
}
