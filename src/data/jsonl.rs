//! Data sets as JSON lines, in the forms that MLX-LM reads.
//!
//! One JSON object a line, all lines of a file in one form:
//!
//! - chat: `{"messages": [{"role": "user", "content": "…"}, …], "tools": […]}` (`tools` optional);
//! - completions: `{"prompt": "…", "completion": "…"}` (and `tools`);
//! - text: `{"text": "…"}`.
//!
//! Other keys are ignored, except `category`, by which results are grouped. Blank lines may stand
//! only at the end, so record `i` of a file is its line `i + 1`.

use serde_json::{Map, Value, json};

pub use crate::text::Message;
use crate::{Error, Result};

/// What a record holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A conversation.
    Chat {
        /// At least one message.
        messages: Vec<Message>,
        /// The tools on offer, as the chat template takes them.
        tools: Option<Vec<Value>>,
    },
    /// A prompt and what follows it, trained on as a chat of one user and one assistant message.
    Completion {
        /// The user's message.
        prompt: String,
        /// The assistant's message.
        completion: String,
        /// The tools on offer, as the chat template takes them.
        tools: Option<Vec<Value>>,
    },
    /// Text as it is, without a template.
    Text(String),
}

/// One line of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it holds.
    pub body: Body,
    /// The key `category`, by which evaluation groups.
    pub category: Option<String>,
}

impl Record {
    /// A chat of one question and its answer.
    pub fn chat(user: &str, assistant: &str, category: Option<&str>) -> Self {
        let messages = vec![Message::new("user", user), Message::new("assistant", assistant)];
        Self { body: Body::Chat { messages, tools: None }, category: category.map(Into::into) }
    }

    fn to_json(&self) -> Value {
        let mut line = self.body.to_json();
        if let Some(category) = &self.category {
            line["category"] = json!(category);
        }
        line
    }
}

impl Body {
    fn to_json(&self) -> Value {
        let (mut line, tools) = match self {
            Body::Chat { messages, tools } => (json!({ "messages": messages }), tools.as_ref()),
            Body::Completion { prompt, completion, tools } => {
                (json!({ "prompt": prompt, "completion": completion }), tools.as_ref())
            }
            Body::Text(text) => (json!({ "text": text }), None),
        };
        if let Some(tools) = tools {
            line["tools"] = json!(tools);
        }
        line
    }
}

/// The line of a record without a category.
impl std::fmt::Display for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_json().fmt(f)
    }
}

/// Writes records as JSON lines, each ended by a line feed.
pub fn to_jsonl(records: &[Record]) -> String {
    records.iter().map(|record| format!("{}\n", record.to_json())).collect()
}

/// Reads a file of JSON lines; `name` is how errors call it.
///
/// A byte order mark at the start and carriage returns before line feeds are dropped.
///
/// # Errors
/// [`Error::Data`] with the line that is not JSON, not UTF-8, in none of the forms, or in another
/// form than the lines before; [`Error::Format`] where there is no record at all.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Record>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut records: Vec<Record> = Vec::new();
    let mut blank = None;
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let number = i + 1;
        if line.trim_ascii().is_empty() {
            blank = blank.or(Some(number));
            continue;
        }
        if let Some(blank) = blank {
            return Err(Error::data(name, blank, "blank line between records; remove it"));
        }
        let record = parse_line(line).map_err(|problem| Error::data(name, number, problem))?;
        if let Some(first) = records.first() {
            let (first, this) = (form(&first.body), form(&record.body));
            if first != this {
                let problem = format!(
                    "a {this} record in a file of {first} records; use one form for the whole file"
                );
                return Err(Error::data(name, number, problem));
            }
        }
        records.push(record);
    }
    if records.is_empty() {
        return Err(Error::format(name, "no records; write one JSON object a line"));
    }
    Ok(records)
}

fn form(body: &Body) -> &'static str {
    match body {
        Body::Chat { .. } => "chat",
        Body::Completion { .. } => "completions",
        Body::Text(_) => "text",
    }
}

fn parse_line(line: &[u8]) -> Result<Record, String> {
    let line = std::str::from_utf8(line).map_err(|_| "not UTF-8; save the file as UTF-8")?;
    let value: Value = serde_json::from_str(line).map_err(|error| {
        // serde_json counts lines within the one line it was given.
        let column = error.column();
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        format!("not JSON: {text} at column {column}")
    })?;
    let Value::Object(mut keys) = value else {
        return Err("not a JSON object; write one object a line".into());
    };
    let category = match keys.remove("category") {
        None | Some(Value::Null) => None,
        Some(Value::String(category)) => Some(category),
        Some(_) => return Err("`category` is not a string".into()),
    };
    let tools = match keys.remove("tools") {
        None | Some(Value::Null) => None,
        Some(Value::Array(tools)) => Some(tools),
        Some(_) => return Err("`tools` is not a list".into()),
    };
    // MLX-LM looks for the forms in this order.
    let body = if keys.contains_key("prompt") && keys.contains_key("completion") {
        let prompt = text(&mut keys, "prompt")?;
        let completion = text(&mut keys, "completion")?;
        Body::Completion { prompt, completion, tools }
    } else if let Some(messages) = keys.remove("messages") {
        Body::Chat { messages: parse_messages(messages)?, tools }
    } else if keys.contains_key("text") {
        let text = text(&mut keys, "text")?;
        if text.is_empty() {
            return Err("`text` is empty".into());
        }
        Body::Text(text)
    } else {
        let found: Vec<&str> = keys.keys().map(String::as_str).collect();
        return Err(format!(
            "a record has `messages`, or `prompt` and `completion`, or `text`; found {found:?}"
        ));
    };
    Ok(Record { body, category })
}

fn text(keys: &mut Map<String, Value>, key: &str) -> Result<String, String> {
    match keys.remove(key) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(format!("`{key}` is not a string")),
    }
}

fn parse_messages(value: Value) -> Result<Vec<Message>, String> {
    let Value::Array(values) = value else {
        return Err("`messages` is not a list".into());
    };
    if values.is_empty() {
        return Err("`messages` is empty".into());
    }
    let parse = |(i, value)| {
        parse_message(value).map_err(|problem| format!("message {}: {problem}", i + 1))
    };
    values.into_iter().enumerate().map(parse).collect()
}

fn parse_message(value: Value) -> Result<Message, String> {
    let Value::Object(mut keys) = value else {
        return Err("not a JSON object".into());
    };
    let role = text(&mut keys, "role")?;
    // A call of a tool comes with `"content": null`, or without the key.
    let content = match keys.remove("content") {
        Some(Value::String(content)) => Some(content),
        None | Some(Value::Null) if keys.contains_key("tool_calls") => None,
        _ => return Err("`content` is not a string".into()),
    };
    Ok(Message { role, content, extra: keys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use proptest::prelude::*;

    #[test]
    fn reads_the_three_forms() {
        let chat = br#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[]}],"tools":[{"x":1}]}"#;
        let Body::Chat { messages, tools } = &parse("c", chat).unwrap()[0].body else { panic!() };
        assert_eq!(messages[0], Message::new("user", "a"));
        assert_eq!(messages[1].content, None);
        assert!(messages[1].extra.contains_key("tool_calls"));
        assert_eq!(tools, &Some(vec![json!({"x": 1})]));

        let both = br#"{"prompt":"p","completion":"c","text":"t","category":"fix/a"}"#;
        let record = &parse("c", both).unwrap()[0];
        let expected = Body::Completion { prompt: "p".into(), completion: "c".into(), tools: None };
        assert_eq!(record.body, expected);
        assert_eq!(record.category.as_deref(), Some("fix/a"));

        assert_eq!(parse("c", br#"{"text":"t"}"#).unwrap()[0].body, Body::Text("t".into()));
    }

    #[test]
    fn marks_returns_and_blank_lines_at_the_end_do_no_harm() {
        let bytes = b"\xef\xbb\xbf{\"text\":\"a\"}\r\n{\"text\":\"b\"}\r\n\r\n \n";
        assert_eq!(parse("x", bytes).unwrap().len(), 2);
    }

    #[test]
    fn each_mistake_names_its_line() {
        let ok = "{\"text\":\"a\"}\n";
        let cases = [
            ("{\"text\":", "x:2: not JSON: EOF while parsing a value at column 8"),
            ("[1]", "x:2: not a JSON object"),
            ("\n{\"text\":\"a\"}", "x:2: blank line between records"),
            (
                "{\"txt\":\"a\",\"id\":1}",
                "x:2: a record has `messages`, or `prompt` and `completion`, or `text`; found [\"txt\", \"id\"]",
            ),
            ("{\"prompt\":\"a\"}", "x:2: a record has"),
            ("{\"text\":1}", "x:2: `text` is not a string"),
            ("{\"text\":\"\"}", "x:2: `text` is empty"),
            ("{\"text\":\"a\",\"tools\":{}}", "x:2: `tools` is not a list"),
            ("{\"messages\":[]}", "x:2: `messages` is empty"),
            ("{\"messages\":{}}", "x:2: `messages` is not a list"),
            ("{\"messages\":[{\"role\":\"user\"}]}", "x:2: message 1: `content` is not a string"),
            ("{\"messages\":[{\"content\":\"a\"}]}", "x:2: message 1: `role` is not a string"),
            (
                "{\"prompt\":\"a\",\"completion\":\"b\"}",
                "x:2: a completions record in a file of text records",
            ),
            ("{\"text\":\"a\",\"category\":3}", "x:2: `category` is not a string"),
        ];
        for (line, expected) in cases {
            let error = parse("x", format!("{ok}{line}\n").as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = parse("x", b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}").unwrap_err().to_string();
        assert!(error.starts_with("x:2: not UTF-8"), "{error}");
        for empty in [&b""[..], b"\n\n", b"\xef\xbb\xbf"] {
            assert!(parse("x", empty).unwrap_err().to_string().starts_with("x: no records"));
        }
        let deep = "[".repeat(100_000);
        assert!(parse("x", deep.as_bytes()).is_err());
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let category = || proptest::option::of("[a-z]{1,5}/[a-z]{1,5}");
        let chat = (any::<String>(), any::<String>(), category())
            .prop_map(|(user, answer, category)| Record::chat(&user, &answer, category.as_deref()));
        let text = ("\\PC{1,20}", category())
            .prop_map(|(text, category)| Record { body: Body::Text(text), category });
        prop_oneof![proptest::collection::vec(chat, 1..5), proptest::collection::vec(text, 1..5)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(records in records()) {
            prop_assert_eq!(parse("x", to_jsonl(&records).as_bytes()).unwrap(), records);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse("x", &bytes);
        }

        #[test]
        fn no_damage_to_a_record_makes_it_panic(at in 0usize..75, byte in any::<u8>()) {
            let mut line = to_jsonl(&[Record::chat("question", "answer", Some("fix/x"))]).into_bytes();
            let at = at % line.len();
            line[at] = byte;
            let _ = parse("x", &line);
        }
    }
}
