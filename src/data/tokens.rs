//! Records as token ids, by the rules of MLX-LM's data sets (`mlx_lm/tuner/datasets.py`).

use serde_json::Value;

use super::jsonl::{Body, Message, Record};
use crate::{Error, Result};

/// A tokenizer with its chat template.
pub trait Encode {
    /// The ids of a rendered chat. Special tokens come from the template alone.
    ///
    /// # Errors
    /// What the template or the tokenizer refuses.
    fn chat(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>>;

    /// The ids of a text, with the special tokens that the tokenizer adds by itself.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    fn text(&self, text: &str) -> Result<Vec<u32>>;

    /// The id that ends a text, appended to text records that don't end with it.
    fn eos(&self) -> Option<u32>;
}

/// One training example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// All token ids, prompt and answer.
    pub ids: Vec<u32>,
    /// How many of the first ids carry no loss. 0 where the prompt is trained on too.
    pub prompt_len: usize,
}

/// Turns records into examples, one for each.
///
/// With `mask_prompt` only the last message carries loss: `prompt_len` is the length of the
/// messages before it, rendered with the generation prompt if the last one is the assistant's.
///
/// # Errors
/// [`Error::Data`], with `name` and the record's line, for what the tokenizer or the template
/// refuses, for a record without tokens, and for a text record with `mask_prompt`.
pub fn tokenize(
    name: &str,
    records: &[Record],
    encode: &impl Encode,
    mask_prompt: bool,
) -> Result<Vec<Example>> {
    let one = |(i, record): (usize, &Record)| {
        example(record, encode, mask_prompt)
            .and_then(|example| match example.ids.is_empty() {
                true => Err(Error::invalid("the record has no tokens")),
                false => Ok(example),
            })
            .map_err(|error| Error::data(name, i + 1, error.to_string()))
    };
    records.iter().enumerate().map(one).collect()
}

fn example(record: &Record, encode: &impl Encode, mask_prompt: bool) -> Result<Example> {
    match &record.body {
        Body::Chat { messages, tools } => chat(messages, tools.as_deref(), encode, mask_prompt),
        Body::Completion { prompt, completion, tools } => {
            let messages = [Message::new("user", prompt), Message::new("assistant", completion)];
            chat(&messages, tools.as_deref(), encode, mask_prompt)
        }
        Body::Text(_) if mask_prompt => {
            Err(Error::invalid("a text record has no prompt to mask; train without mask_prompt"))
        }
        Body::Text(text) => {
            let mut ids = encode.text(text)?;
            if let Some(eos) = encode.eos()
                && ids.last() != Some(&eos)
            {
                ids.push(eos);
            }
            Ok(Example { ids, prompt_len: 0 })
        }
    }
}

fn chat(
    messages: &[Message],
    tools: Option<&[Value]>,
    encode: &impl Encode,
    mask_prompt: bool,
) -> Result<Example> {
    let ids = encode.chat(messages, tools, false)?;
    let prompt_len = match messages.split_last() {
        Some((last, before)) if mask_prompt => {
            encode.chat(before, tools, last.role == "assistant")?.len()
        }
        _ => 0,
    };
    Ok(Example { ids, prompt_len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    /// One id a byte; `<` opens a message, `>` closes it, `!` asks for an answer, `.` ends a text.
    struct Bytes;

    impl Encode for Bytes {
        fn chat(
            &self,
            messages: &[Message],
            tools: Option<&[Value]>,
            ask: bool,
        ) -> Result<Vec<u32>> {
            let mut text = tools.map(|_| "T".to_string()).unwrap_or_default();
            for message in messages {
                text += &format!("<{}>", message.content.as_deref().unwrap_or_default());
            }
            if ask {
                text += "!";
            }
            self.text(&text)
        }

        fn text(&self, text: &str) -> Result<Vec<u32>> {
            match text.contains('#') {
                true => Err(Error::invalid("no # here")),
                false => Ok(text.bytes().map(u32::from).collect()),
            }
        }

        fn eos(&self) -> Option<u32> {
            Some(u32::from(b'.'))
        }
    }

    fn tokens(line: &str, mask_prompt: bool) -> Result<Example> {
        let records = crate::data::jsonl::parse("f", line.as_bytes())?;
        Ok(tokenize("f", &records, &Bytes, mask_prompt)?.remove(0))
    }

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn chats_and_completions_go_through_the_template() {
        let chat = r#"{"messages":[{"role":"user","content":"ab"},{"role":"assistant","content":"c"}],"tools":[]}"#;
        assert_eq!(tokens(chat, false).unwrap(), Example { ids: ids("T<ab><c>"), prompt_len: 0 });
        assert_eq!(tokens(chat, true).unwrap().prompt_len, "T<ab>!".len());
        let last_is_user =
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"ab"}]}"#;
        assert_eq!(tokens(last_is_user, true).unwrap().prompt_len, "<s>".len());
        let completion = r#"{"prompt":"ab","completion":"c"}"#;
        assert_eq!(
            tokens(completion, true).unwrap(),
            Example { ids: ids("<ab><c>"), prompt_len: 5 }
        );
    }

    #[test]
    fn texts_end_with_one_eos() {
        assert_eq!(tokens(r#"{"text":"ab"}"#, false).unwrap().ids, ids("ab."));
        assert_eq!(tokens(r#"{"text":"ab."}"#, false).unwrap().ids, ids("ab."));
    }

    #[test]
    fn mistakes_name_the_line() {
        let error = tokens(r##"{"text":"#"}"##, false).unwrap_err().to_string();
        assert_eq!(error, "f:1: no # here");
        let error = tokens(r#"{"text":"a"}"#, true).unwrap_err().to_string();
        assert!(error.starts_with("f:1: a text record has no prompt"), "{error}");
    }
}
