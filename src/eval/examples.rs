//! The questions of an evaluation, and how a data file becomes them.

use crate::data::file::RecordFile;
use crate::data::jsonl::{Body, Message, Record};
use crate::{Error, Result};

/// The category of an example whose record names none.
pub const NO_CATEGORY: &str = "all";

/// One question of an evaluation set.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The messages before the prompt: a system message, earlier turns; mostly none. Only
    /// [`Protocol::Honest`](super::Protocol::Honest) can ask with them.
    pub history: Vec<Message>,
    /// What the model is asked, without a template.
    pub prompt: String,
    /// The answer that counts as right; not blank.
    pub expected: String,
    /// The group it is counted in besides the whole.
    pub category: String,
}

impl Example {
    /// A question without messages before it.
    pub fn new(
        prompt: impl Into<String>,
        expected: impl Into<String>,
        category: impl Into<String>,
    ) -> Self {
        Example {
            history: Vec::new(),
            prompt: prompt.into(),
            expected: expected.into(),
            category: category.into(),
        }
    }

    /// The questions in the records of the file called `name`, one a record: the last message is
    /// the expected answer, the one before it the prompt.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of a record that is no such question: plain text, tools, a
    /// chat that does not end with a user's and then an assistant's message.
    pub fn from_records(name: &str, records: &[Record]) -> Result<Vec<Self>> {
        let example = |(i, record): (usize, &Record)| {
            from_record(record).map_err(|problem| Error::data(name, i + 1, problem))
        };
        records.iter().enumerate().map(example).collect()
    }

    /// The questions in a file, as [`Self::from_records`].
    ///
    /// # Errors
    /// What it says, with the record's place in the file.
    pub fn from_file(file: &RecordFile) -> Result<Vec<Self>> {
        let example = |(i, record): (usize, &Record)| {
            from_record(record).map_err(|problem| Error::format(file.place(i), problem))
        };
        file.records.iter().enumerate().map(example).collect()
    }

    /// How many of `examples` the training set repeats: the same answer to a prompt that ends with
    /// the same words, since augmentation puts words before a prompt. None if it is of plain text.
    pub fn seen(examples: &[Self], trained_on: &[Record]) -> Option<usize> {
        let trained = Self::from_records("", trained_on).ok()?;
        let repeats = |example: &&Self| {
            trained
                .iter()
                .any(|t| t.expected == example.expected && t.prompt.ends_with(&example.prompt))
        };
        Some(examples.iter().filter(repeats).count())
    }
}

fn from_record(record: &Record) -> Result<Example, &'static str> {
    let category = record.category.as_deref().unwrap_or(NO_CATEGORY);
    match &record.body {
        Body::Text(_) => {
            Err("plain text asks no question; give a prompt and its completion, or evaluate the \
                 loss alone")
        }
        Body::Preference { .. } => {
            Err("preferences can't be evaluated; give prompts and their completions")
        }
        Body::Chat { tools: Some(_), .. } | Body::Completion { tools: Some(_), .. } => {
            Err("tools can't be evaluated; leave the key out")
        }
        Body::Completion { prompt, completion, .. } => {
            Ok(Example::new(prompt, completion, category))
        }
        Body::Chat { messages, .. } => {
            let ends = "a chat to evaluate ends with a user's and an assistant's message of text";
            let [history @ .., user, assistant] = &messages[..] else { return Err(ends) };
            match (&user.role[..], &user.content, &assistant.role[..], &assistant.content) {
                ("user", Some(prompt), "assistant", Some(expected)) => Ok(Example {
                    history: history.to_vec(),
                    ..Example::new(prompt, expected, category)
                }),
                _ => Err(ends),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::jsonl::parse;
    use crate::testing::test;

    fn read(lines: &str) -> Result<Vec<Example>> {
        Example::from_records("test.jsonl", &parse("test.jsonl", lines.as_bytes())?)
    }

    #[test]
    fn chats_and_completions_are_questions() {
        let chat = r#"{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "category": "c"}"#;
        assert_eq!(read(chat).unwrap(), [Example::new("Q", "A", "c")]);
        let completion = r#"{"prompt": "Q", "completion": "A"}"#;
        assert_eq!(read(completion).unwrap(), [Example::new("Q", "A", NO_CATEGORY)]);
        let system = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}"#;
        assert_eq!(read(system).unwrap()[0].history, [Message::new("system", "S")]);
    }

    #[test]
    fn what_asks_nothing_is_refused_with_its_line() {
        let problem = |lines: &str| read(lines).unwrap_err().to_string();
        assert!(problem(r#"{"text": "just text"}"#).starts_with("test.jsonl:1: plain text"));
        let lone = r#"{"prompt": "Q", "completion": "A"}
{"prompt": "Q", "completion": "A", "tools": []}"#;
        assert!(problem(lone).starts_with("test.jsonl:2: tools"), "{}", problem(lone));
        let backwards = r#"{"messages": [{"role": "assistant", "content": "A"}, {"role": "user", "content": "Q"}]}"#;
        assert!(problem(backwards).contains("ends with a user's"));
    }
}
