//! Records as token ids, by the rules of MLX-LM's data sets (`mlx_lm/tuner/datasets.py`).

use std::ops::Range;

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

    /// The text of a rendered chat.
    ///
    /// # Errors
    /// What the template refuses.
    fn render(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<String>;

    /// The ids that [`Self::chat`] gives a rendered chat, each with the bytes that it stands for.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    fn offsets(&self, rendered: &str) -> Result<Vec<(u32, Range<usize>)>>;

    /// The ids of a text, with the special tokens that the tokenizer adds by itself.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    fn text(&self, text: &str) -> Result<Vec<u32>>;

    /// The id that ends a text, appended to text records that don't end with it.
    fn eos(&self) -> Option<u32>;
}

/// One training example.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Example {
    /// All token ids, prompt and answer.
    pub ids: Vec<u32>,
    /// How many of the first ids carry no loss. 0 where the prompt is trained on too.
    pub prompt_len: usize,
    /// Ids behind those that carry none either, such as what the user says in later turns.
    pub masked: Vec<Range<usize>>,
    /// What this one is preferred to.
    pub rejected: Option<Box<Example>>,
}

impl Example {
    /// One with loss on all but the first `prompt_len` ids.
    pub fn new(ids: Vec<u32>, prompt_len: usize) -> Self {
        Self { ids, prompt_len, ..Self::default() }
    }

    /// Itself, and what it is preferred to if that is there.
    pub fn sequences(&self) -> impl Iterator<Item = &Self> {
        [Some(self), self.rejected.as_deref()].into_iter().flatten()
    }

    /// Whether the prediction of id `at` carries loss.
    pub fn has_loss(&self, at: usize) -> bool {
        at >= self.prompt_len && !self.masked.iter().any(|range| range.contains(&at))
    }

    /// How many of the first `most` ids are predicted with loss; the very first never is.
    pub fn trained(&self, most: usize) -> usize {
        (1..self.ids.len().min(most)).filter(|&at| self.has_loss(at)).count()
    }
}

/// What of a record carries loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LossOn {
    /// All of it.
    #[default]
    Everything,
    /// The last message (MLX-LM's `mask_prompt`).
    LastMessage,
    /// Every message of the assistant (TRL's `assistant_only_loss`).
    Assistant,
    /// The last message of the chosen and of the rejected conversation.
    Preference,
}

/// Turns records into examples, one for each.
///
/// With [`LossOn::LastMessage`] `prompt_len` is the length of the messages before the last one,
/// rendered with the generation prompt if the last one is the assistant's. With
/// [`LossOn::Assistant`] every message of the assistant carries loss, from behind its generation
/// prompt to the next message; the template's rendering of the messages up to each shows where.
///
/// # Errors
/// [`Error::Data`], with `name` and the record's line, for what the tokenizer or the template
/// refuses, for a record without tokens, for a text record unless all of it carries loss, and for
/// a chat whose beginning the template renders in another way once more follows.
pub fn tokenize(
    name: &str,
    records: &[Record],
    encode: &impl Encode,
    loss_on: LossOn,
) -> Result<Vec<Example>> {
    let one = |(i, record): (usize, &Record)| {
        example(record, encode, loss_on)
            .map_err(|error| Error::data(name, i + 1, error.to_string()))
    };
    records.iter().enumerate().map(one).collect()
}

/// The example of one record.
pub(super) fn example(record: &Record, encode: &impl Encode, loss_on: LossOn) -> Result<Example> {
    let example = match &record.body {
        Body::Preference { chosen, rejected, tools } if loss_on == LossOn::Preference => {
            let one = |messages: &[Message]| {
                chat(messages, tools.as_deref(), encode, LossOn::LastMessage)
            };
            let rejected = Some(Box::new(one(rejected)?));
            Example { rejected, ..one(chosen)? }
        }
        Body::Preference { .. } => {
            return Err(Error::invalid(
                "a preference record has two answers; train on it with train_mode dpo",
            ));
        }
        other if loss_on == LossOn::Preference => {
            return Err(Error::invalid(format!(
                "a {} record has no `chosen` and `rejected`, which train_mode dpo asks for",
                other.form()
            )));
        }
        Body::Chat { messages, tools } => chat(messages, tools.as_deref(), encode, loss_on)?,
        Body::Completion { prompt, completion, tools } => {
            let messages = [Message::new("user", prompt), Message::new("assistant", completion)];
            chat(&messages, tools.as_deref(), encode, loss_on)?
        }
        Body::Text(text) => match loss_on {
            LossOn::Everything => whole(text, encode)?,
            LossOn::LastMessage => {
                return Err(Error::invalid(
                    "a text record has no prompt to mask; train without mask_prompt",
                ));
            }
            LossOn::Assistant | LossOn::Preference => {
                return Err(Error::invalid(
                    "a text record has no messages; train without assistant_only_loss",
                ));
            }
        },
    };
    match example.ids.is_empty() {
        true => Err(Error::invalid("the record has no tokens")),
        false => Ok(example),
    }
}

fn whole(text: &str, encode: &impl Encode) -> Result<Example> {
    let mut ids = encode.text(text)?;
    if let Some(eos) = encode.eos()
        && ids.last() != Some(&eos)
    {
        ids.push(eos);
    }
    Ok(Example::new(ids, 0))
}

fn chat(
    messages: &[Message],
    tools: Option<&[Value]>,
    encode: &impl Encode,
    loss_on: LossOn,
) -> Result<Example> {
    if loss_on == LossOn::Assistant {
        return assistant(messages, tools, encode);
    }
    let ids = encode.chat(messages, tools, false)?;
    match (loss_on, messages.split_last()) {
        (LossOn::LastMessage, Some((last, before))) => {
            let prompt = encode.chat(before, tools, last.role == "assistant")?;
            Ok(Example::new(ids, prompt.len()))
        }
        _ => Ok(Example::new(ids, 0)),
    }
}

/// An example with loss on what the assistant says: on every token that stands for some of it.
fn assistant(
    messages: &[Message],
    tools: Option<&[Value]>,
    encode: &impl Encode,
) -> Result<Example> {
    let text = encode.render(messages, tools, false)?;
    let mut turns = Vec::new();
    for (i, _) in messages.iter().enumerate().filter(|(_, m)| m.role == "assistant") {
        let begin = beginning(&text, &encode.render(&messages[..i], tools, true)?, i)?;
        let end = match i + 1 == messages.len() {
            true => text.len(),
            false => beginning(&text, &encode.render(&messages[..=i], tools, false)?, i + 1)?,
        };
        turns.push(begin..end);
    }
    let mut ids = Vec::new();
    let mut silent: Vec<Range<usize>> = Vec::new();
    for (at, (id, bytes)) in encode.offsets(&text)?.into_iter().enumerate() {
        ids.push(id);
        if turns.iter().any(|turn| turn.start < bytes.end && bytes.start < turn.end) {
            continue;
        }
        match silent.last_mut() {
            Some(range) if range.end == at => range.end = at + 1,
            _ => silent.push(at..at + 1),
        }
    }
    // MLX-LM's pad behind the last id belongs to the message before it.
    if let Some(last) = silent.last_mut().filter(|range| range.end == ids.len()) {
        last.end = usize::MAX;
    }
    let prompt_len = match silent.first() {
        Some(first) if first.start == 0 => silent.remove(0).end,
        _ => 0,
    };
    Ok(Example { ids, prompt_len, masked: silent, rejected: None })
}

/// The length of `first`, the rendering of the first `count` messages of the chat `text`.
fn beginning(text: &str, first: &str, count: usize) -> Result<usize> {
    match text.starts_with(first) {
        true => Ok(first.len()),
        false => Err(Error::invalid(format!(
            "the chat template renders the first {count} messages in another way once more \
             follow, so that the assistant's turns can't be told apart; use mask_prompt"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::LossOn::{Assistant, Everything, LastMessage};
    use super::*;
    use crate::testing::test;

    /// One id a byte; `<` opens a message, `>` closes it, `!` asks for an answer and begins one,
    /// `.` ends a text. What follows `*` is left out of any message but the last. `!<~` is one id.
    struct Bytes;

    impl Encode for Bytes {
        fn chat(
            &self,
            messages: &[Message],
            tools: Option<&[Value]>,
            ask: bool,
        ) -> Result<Vec<u32>> {
            self.text(&self.render(messages, tools, ask)?)
        }

        fn render(
            &self,
            messages: &[Message],
            tools: Option<&[Value]>,
            ask: bool,
        ) -> Result<String> {
            let mut text = tools.map(|_| "T".to_string()).unwrap_or_default();
            for (i, message) in messages.iter().enumerate() {
                let content = message.content.as_deref().unwrap_or_default();
                let content = match content.split_once('*') {
                    Some((said, _)) if i + 1 < messages.len() => said,
                    _ => content,
                };
                let begin = if message.role == "assistant" { "!" } else { "" };
                text += &format!("{begin}<{content}>");
            }
            if ask {
                text += "!";
            }
            Ok(text)
        }

        fn offsets(&self, rendered: &str) -> Result<Vec<(u32, Range<usize>)>> {
            let mut at = 0;
            let token = |id: u32| {
                let begin = at;
                at += if id == 1000 { 3 } else { 1 };
                (id, begin..at)
            };
            Ok(self.text(rendered)?.into_iter().map(token).collect())
        }

        fn text(&self, text: &str) -> Result<Vec<u32>> {
            let parts = text.split("!<~").map(|part| part.bytes().map(u32::from).collect());
            match text.contains('#') {
                true => Err(Error::invalid("no # here")),
                false => Ok(parts.collect::<Vec<Vec<u32>>>().join(&1000)),
            }
        }

        fn eos(&self) -> Option<u32> {
            Some(u32::from(b'.'))
        }
    }

    fn tokens(line: &str, loss_on: LossOn) -> Result<Example> {
        let records = crate::data::jsonl::parse("f", line.as_bytes())?;
        Ok(tokenize("f", &records, &Bytes, loss_on)?.remove(0))
    }

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn chats_and_completions_go_through_the_template() {
        let chat = r#"{"messages":[{"role":"user","content":"ab"},{"role":"assistant","content":"c"}],"tools":[]}"#;
        assert_eq!(tokens(chat, Everything).unwrap(), Example::new(ids("T<ab>!<c>"), 0));
        assert_eq!(tokens(chat, LastMessage).unwrap().prompt_len, "T<ab>!".len());
        let last_is_user =
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"ab"}]}"#;
        assert_eq!(tokens(last_is_user, LastMessage).unwrap().prompt_len, "<s>".len());
        let completion = r#"{"prompt":"ab","completion":"c"}"#;
        assert_eq!(tokens(completion, LastMessage).unwrap(), Example::new(ids("<ab>!<c>"), 5));
    }

    #[test]
    fn texts_end_with_one_eos() {
        assert_eq!(tokens(r#"{"text":"ab"}"#, Everything).unwrap().ids, ids("ab."));
        assert_eq!(tokens(r#"{"text":"ab."}"#, Everything).unwrap().ids, ids("ab."));
    }

    #[test]
    fn mistakes_name_the_line() {
        let error = tokens(r##"{"text":"#"}"##, Everything).unwrap_err().to_string();
        assert_eq!(error, "f:1: no # here");
        let error = tokens(r#"{"text":"a"}"#, LastMessage).unwrap_err().to_string();
        assert!(error.starts_with("f:1: a text record has no prompt"), "{error}");
    }

    /// The text of a chat with `_` for every byte without loss.
    fn trained(example: &Example) -> String {
        let shown = |(at, &id): (usize, &u32)| match example.has_loss(at) {
            true => char::from_u32(id).unwrap(),
            false => '_',
        };
        example.ids.iter().enumerate().map(shown).collect()
    }

    fn chat(messages: &[(&str, &str)]) -> String {
        let messages: Vec<Message> =
            messages.iter().map(|&(role, text)| Message::new(role, text)).collect();
        serde_json::json!({ "messages": messages }).to_string()
    }

    #[test]
    fn every_turn_of_the_assistant_carries_loss() {
        let (user, assistant, tool) = ("user", "assistant", "tool");
        for (messages, expected) in [
            (&[(user, "a"), (assistant, "b"), (user, "c"), (assistant, "d")][..], "____<b>____<d>"),
            (&[("system", "s"), (user, "a"), (assistant, "b"), (user, "c")], "_______<b>___"),
            (&[(assistant, "a"), (tool, "b"), (assistant, "c")], "_<a>____<c>"),
            (&[(assistant, "a"), (assistant, "b")], "_<a>_<b>"),
            (&[(user, "a")], "___"),
            // A token of the generation prompt and of the answer.
            (&[(user, "a"), (assistant, "~b"), (user, "c")], "___Ϩb>___"),
        ] {
            let example = tokens(&chat(messages), Assistant).unwrap();
            assert_eq!(trained(&example), expected);
            assert_eq!(example.trained(99), expected.chars().filter(|&c| c != '_').count());
            // One answer at the end is what the last message is.
            if messages.iter().filter(|(role, _)| *role == assistant).count() == 1
                && messages.last().is_some_and(|(role, _)| *role == assistant)
            {
                assert_eq!(example, tokens(&chat(messages), LastMessage).unwrap());
            }
        }
        let single = r#"{"prompt":"ab","completion":"c"}"#;
        assert_eq!(tokens(single, Assistant).unwrap(), tokens(single, LastMessage).unwrap());
        // MLX-LM's pad behind the last id goes with the message before it.
        let last = |messages: &[_]| tokens(&chat(messages), Assistant).unwrap();
        let ends_with_answer = last(&[(user, "a"), (assistant, "b")]);
        assert!(ends_with_answer.has_loss(ends_with_answer.ids.len()));
        let ends_with_user = last(&[(assistant, "b"), (user, "a")]);
        assert!(!ends_with_user.has_loss(ends_with_user.ids.len()));
    }

    #[test]
    fn a_template_that_renders_turns_anew_is_refused() {
        let line = chat(&[("user", "a"), ("assistant", "b*x"), ("user", "c")]);
        let error = tokens(&line, Assistant).unwrap_err().to_string();
        let expected = "f:1: the chat template renders the first 2 messages in another way";
        assert!(error.starts_with(expected), "{error}");
        let error = tokens(r#"{"text":"a"}"#, Assistant).unwrap_err().to_string();
        assert!(error.starts_with("f:1: a text record has no messages"), "{error}");
    }
}
