//! Decoding token by token, for a reader who watches the text grow.

use super::Tokenizer;
use super::decoding::Decoder;
use crate::Result;

/// A text that is decoded while its tokens arrive.
///
/// Never gives part of a character: an incomplete one waits for the next token. All that
/// [`push`](Self::push) and [`finish`](Self::finish) give, joined, is what
/// [`Tokenizer::decode`] gives for all the tokens.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    decoder: Decoder,
    skip_special_tokens: bool,
}

impl TextStream {
    /// A stream at the start of a text; special tokens leave no text if `skip_special_tokens`.
    pub fn new(tokenizer: &Tokenizer, skip_special_tokens: bool) -> Self {
        Self {
            decoder: tokenizer.decoding().start(),
            tokenizer: tokenizer.clone(),
            skip_special_tokens,
        }
    }

    /// Adds a token and returns the text that is now certain; it may be empty.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for an id outside the vocabulary; the stream stays as it was.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let token = self.tokenizer.known_token(id)?;
        let mut out = String::new();
        if !(self.skip_special_tokens && self.tokenizer.is_special(id)) {
            self.decoder.push(&token, &mut out);
        }
        Ok(out)
    }

    /// Ends the text and returns its rest: replacement characters for an incomplete character,
    /// nothing otherwise.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.decoder.finish(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tokenizer::tests::{sentencepiece, tiny};
    use super::*;
    use crate::testing::test;

    fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
        let mut stream = TextStream::new(tokenizer, skip);
        let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        text.push_str(&stream.finish());
        text
    }

    proptest! {
        #[test]
        fn joined_it_is_the_whole_decode(
            choice in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
            skip: bool,
            bytes: bool,
        ) {
            let tokenizer = if bytes { tiny() } else { sentencepiece() };
            let ids: Vec<u32> =
                choice.iter().map(|i| i.index(tokenizer.vocab_size()) as u32).collect();
            let whole = tokenizer.hugging_face().decode(&ids, skip).unwrap();
            prop_assert_eq!(&streamed(&tokenizer, &ids, skip), &whole);
            prop_assert_eq!(tokenizer.decode(&ids, skip).unwrap(), whole);
        }

        #[test]
        fn text_comes_back_whole(text in "\\PC{0,20}") {
            let tokenizer = tiny();
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(streamed(&tokenizer, &ids, false), text);
        }
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let tokenizer = tiny();
        let ids = tokenizer.encode("é", false).unwrap();
        assert_eq!(ids.len(), 2);
        let mut stream = TextStream::new(&tokenizer, true);
        assert_eq!(stream.push(ids[0]).unwrap(), "");
        assert_eq!(stream.push(ids[1]).unwrap(), "é");
        assert_eq!(stream.push(ids[0]).unwrap(), "");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn special_tokens_leave_no_text_when_skipped() {
        let tokenizer = tiny();
        let end = tokenizer.token_id("<|im_end|>").unwrap();
        assert_eq!(streamed(&tokenizer, &[end], true), "");
        assert_eq!(streamed(&tokenizer, &[end], false), "<|im_end|>");
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_an_error() {
        let mut stream = TextStream::new(&tiny(), true);
        assert!(stream.push(9_999).unwrap_err().to_string().contains("9999"));
    }
}
