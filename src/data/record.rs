//! Records of a data set, and the columns that they are read from.
//!
//! A record is an object in one of these forms, looked for in this order, MLX-LM's first:
//!
//! - completions: `prompt` and `completion`, two texts, or TRL's two lists of messages;
//! - preferences: `chosen` and `rejected`, two texts that answer `prompt`, or TRL's two lists of
//!   messages, after those of `prompt` if there is one;
//! - chat: `messages`, each with `role` and `content`, or with ShareGPT's `from` and `value`;
//! - text: `text`;
//! - ShareGPT's `conversations`, as `messages`;
//! - Alpaca's `instruction` and `output`; an `input` goes below the instruction.
//!
//! All but texts may have `tools`, the last two a `system` message. Where a list belongs there may
//! be a text that holds it as JSON, since CSV has no lists. Other keys are ignored, except
//! `category`, by which results are grouped; what else a message has is handed to the template.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use crate::text::Message;

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
    /// Two conversations that differ in what comes last, of which the first is preferred.
    Preference {
        /// At least one message.
        chosen: Vec<Message>,
        /// At least one message.
        rejected: Vec<Message>,
        /// The tools on offer, as the chat template takes them.
        tools: Option<Vec<Value>>,
    },
    /// Text as it is, without a template.
    Text(String),
}

/// One record of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it holds.
    pub body: Body,
    /// The key `category`, by which evaluation groups.
    pub category: Option<String>,
}

/// The columns of MLX-LM's forms, under the names of its options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Features {
    /// The user's message of a completion.
    pub prompt_feature: String,
    /// The assistant's message of a completion.
    pub completion_feature: String,
    /// The messages of a chat.
    pub chat_feature: String,
    /// A text.
    pub text_feature: String,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            prompt_feature: "prompt".into(),
            completion_feature: "completion".into(),
            chat_feature: "messages".into(),
            text_feature: "text".into(),
        }
    }
}

/// The preferred answer, and the other one.
const CHOSEN: &str = "chosen";
const REJECTED: &str = "rejected";
/// ShareGPT's messages.
const CONVERSATIONS: &str = "conversations";
/// Alpaca's user message.
const INSTRUCTION: &str = "instruction";
/// Alpaca's assistant message.
const OUTPUT: &str = "output";

impl Record {
    /// A chat of one question and its answer.
    pub fn chat(user: &str, assistant: &str, category: Option<&str>) -> Self {
        let messages = vec![Message::new("user", user), Message::new("assistant", assistant)];
        Self { body: Body::Chat { messages, tools: None }, category: category.map(Into::into) }
    }

    /// Reads a record from its columns.
    ///
    /// # Errors
    /// What is wrong with it, in one line that doesn't say which record it is.
    pub fn from_columns(
        mut columns: Map<String, Value>,
        features: &Features,
    ) -> Result<Self, String> {
        // A table has a cell for every column, also where there is nothing.
        columns.retain(|_, value| !value.is_null());
        let category = match columns.remove("category") {
            None => None,
            Some(Value::String(category)) => Some(category).filter(|name| !name.is_empty()),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(_) => return Err("`category` is not a string".into()),
        };
        let body = body(&mut columns, features)?;
        Ok(Self { body, category })
    }

    pub(super) fn to_json(&self) -> Value {
        let mut line = self.body.to_json();
        if let Some(category) = &self.category {
            line["category"] = json!(category);
        }
        line
    }
}

impl Body {
    /// What its form is called.
    pub fn form(&self) -> &'static str {
        match self {
            Body::Chat { .. } => "chat",
            Body::Completion { .. } => "completions",
            Body::Preference { .. } => "preferences",
            Body::Text(_) => "text",
        }
    }

    fn to_json(&self) -> Value {
        let (mut line, tools) = match self {
            Body::Chat { messages, tools } => (json!({ "messages": messages }), tools.as_ref()),
            Body::Completion { prompt, completion, tools } => {
                (json!({ "prompt": prompt, "completion": completion }), tools.as_ref())
            }
            Body::Preference { chosen, rejected, tools } => {
                (json!({ "chosen": chosen, "rejected": rejected }), tools.as_ref())
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

/// Adds a record to those of its file, which are all of one form.
pub(super) fn push(records: &mut Vec<Record>, record: Record) -> Result<(), String> {
    if let Some(first) = records.first() {
        let (first, this) = (first.body.form(), record.body.form());
        if first != this {
            return Err(format!(
                "a {this} record in a file of {first} records; use one form for the whole file"
            ));
        }
    }
    records.push(record);
    Ok(())
}

fn body(columns: &mut Map<String, Value>, features: &Features) -> Result<Body, String> {
    let Features { prompt_feature, completion_feature, chat_feature, text_feature } = features;
    let tools = match columns.remove("tools") {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(tools) => Some(list("tools", tools)?),
    };
    if columns.contains_key(CHOSEN) && columns.contains_key(REJECTED) {
        let mut before = Vec::new();
        match columns.get(prompt_feature) {
            Some(Value::Array(_)) => before = messages(columns, prompt_feature)?,
            Some(_) => before.push(Message::new("user", text(columns, prompt_feature)?)),
            None => {}
        }
        let has_prompt = !before.is_empty();
        let mut answer = |key: &str| match columns.get(key) {
            Some(Value::String(_)) if has_prompt => {
                let answer = Message::new("assistant", text(columns, key)?);
                Ok([&before[..], &[answer]].concat())
            }
            _ => Ok::<_, String>([&before[..], &messages(columns, key)?].concat()),
        };
        let (chosen, rejected) = (answer(CHOSEN)?, answer(REJECTED)?);
        Ok(Body::Preference { chosen, rejected, tools })
    } else if columns.contains_key(prompt_feature) && columns.contains_key(completion_feature) {
        if let Some(Value::Array(_)) = columns.get(prompt_feature) {
            let mut chat = messages(columns, prompt_feature)?;
            chat.extend(messages(columns, completion_feature)?);
            return Ok(Body::Chat { messages: chat, tools });
        }
        let prompt = text(columns, prompt_feature)?;
        let completion = text(columns, completion_feature)?;
        Ok(Body::Completion { prompt, completion, tools })
    } else if columns.contains_key(chat_feature) {
        Ok(Body::Chat { messages: messages(columns, chat_feature)?, tools })
    } else if columns.contains_key(text_feature) {
        match text(columns, text_feature)? {
            text if text.is_empty() => Err(format!("`{text_feature}` is empty")),
            text => Ok(Body::Text(text)),
        }
    } else if columns.contains_key(CONVERSATIONS) {
        let mut chat = system(columns)?;
        chat.extend(messages(columns, CONVERSATIONS)?);
        Ok(Body::Chat { messages: chat, tools })
    } else if columns.contains_key(INSTRUCTION) && columns.contains_key(OUTPUT) {
        let mut chat = system(columns)?;
        let mut user = text(columns, INSTRUCTION)?;
        if columns.contains_key("input") {
            let input = text(columns, "input")?;
            if !input.is_empty() {
                user = format!("{user}\n{input}");
            }
        }
        chat.push(Message::new("user", user));
        chat.push(Message::new("assistant", text(columns, OUTPUT)?));
        Ok(Body::Chat { messages: chat, tools })
    } else {
        let found: Vec<&str> = columns.keys().map(String::as_str).collect();
        Err(format!(
            "a record has `{chat_feature}`, or `{prompt_feature}` and `{completion_feature}`, or \
             `{text_feature}`; found {found:?}"
        ))
    }
}

fn text(columns: &mut Map<String, Value>, key: &str) -> Result<String, String> {
    match columns.remove(key) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(format!("`{key}` is not a string")),
    }
}

/// A list, or a text that holds one.
fn list(key: &str, value: Value) -> Result<Vec<Value>, String> {
    let value = match value {
        Value::String(text) => serde_json::from_str(&text).unwrap_or_default(),
        other => other,
    };
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(format!("`{key}` is not a list")),
    }
}

/// The message that a column of its own holds.
fn system(columns: &mut Map<String, Value>) -> Result<Vec<Message>, String> {
    if !columns.contains_key("system") {
        return Ok(Vec::new());
    }
    let text = text(columns, "system")?;
    Ok(Some(text)
        .filter(|text| !text.is_empty())
        .map(|text| Message::new("system", text))
        .into_iter()
        .collect())
}

fn messages(columns: &mut Map<String, Value>, key: &str) -> Result<Vec<Message>, String> {
    let values = list(key, columns.remove(key).unwrap_or_default())?;
    if values.is_empty() {
        return Err(format!("`{key}` is empty"));
    }
    let parse =
        |(i, value)| message(value).map_err(|problem| format!("message {}: {problem}", i + 1));
    values.into_iter().enumerate().map(parse).collect()
}

fn message(value: Value) -> Result<Message, String> {
    let Value::Object(mut keys) = value else {
        return Err("not a JSON object".into());
    };
    if keys.contains_key("from") && !keys.contains_key("role") {
        let role = match text(&mut keys, "from")?.as_str() {
            "human" | "user" => "user",
            "gpt" | "chatgpt" | "model" | "assistant" => "assistant",
            "system" => "system",
            "tool" | "observation" => "tool",
            other => {
                return Err(format!(
                    "`from` is {other:?}; there are \"system\", \"human\", \"gpt\" and \"tool\""
                ));
            }
        };
        let content = Some(text(&mut keys, "value")?);
        return Ok(Message { role: role.into(), content, extra: keys });
    }
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

    fn read(json: &str) -> Result<Record, String> {
        let Ok(Value::Object(columns)) = serde_json::from_str(json) else { panic!("{json}") };
        Record::from_columns(columns, &Features::default())
    }

    fn chat(messages: &[(&str, &str)]) -> Body {
        let messages = messages.iter().map(|&(role, text)| Message::new(role, text)).collect();
        Body::Chat { messages, tools: None }
    }

    #[test]
    fn sharegpt_is_a_chat() {
        let turns = r#"[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]"#;
        let expected = chat(&[("user", "a"), ("assistant", "b")]);
        for key in ["conversations", "messages"] {
            assert_eq!(read(&format!("{{\"{key}\":{turns}}}")).unwrap().body, expected);
        }
        // As a cell of a table, with a prompt for the system in a column of its own.
        let cell = serde_json::to_string(turns).unwrap();
        let record = read(&format!("{{\"conversations\":{cell},\"system\":\"s\"}}")).unwrap();
        assert_eq!(record.body, chat(&[("system", "s"), ("user", "a"), ("assistant", "b")]));
        let error = read(r#"{"conversations":[{"from":"bot","value":"a"}]}"#).unwrap_err();
        assert!(error.starts_with("message 1: `from` is \"bot\"; there are"), "{error}");
        let error = read(r#"{"conversations":[{"from":"gpt"}]}"#).unwrap_err();
        assert_eq!(error, "message 1: `value` is not a string");
    }

    #[test]
    fn preferences_are_pairs_of_chats() {
        let pair = |chosen: &[(&str, &str)], rejected: &[(&str, &str)]| {
            let [Body::Chat { messages: chosen, .. }, Body::Chat { messages: rejected, .. }] =
                [chat(chosen), chat(rejected)]
            else {
                unreachable!("they are chats")
            };
            Body::Preference { chosen, rejected, tools: None }
        };
        let (q, a, b) = (("user", "q"), ("assistant", "a"), ("assistant", "b"));
        let expected = pair(&[q, a], &[q, b]);
        let [q, a, b] = [
            r#"{"role":"user","content":"q"}"#,
            r#"{"role":"assistant","content":"a"}"#,
            r#"{"role":"assistant","content":"b"}"#,
        ];
        for json in [
            r#"{"prompt":"q","chosen":"a","rejected":"b"}"#.to_owned(),
            format!(r#"{{"prompt":[{q}],"chosen":[{a}],"rejected":[{b}]}}"#),
            format!(r#"{{"chosen":[{q},{a}],"rejected":[{q},{b}]}}"#),
        ] {
            let record = read(&json).unwrap();
            assert_eq!(record.body, expected, "{json}");
            assert_eq!(read(&record.to_json().to_string()).unwrap(), record);
        }
        let error = read(r#"{"chosen":"a","rejected":"b"}"#).unwrap_err();
        assert_eq!(error, "`chosen` is not a list");
        let error = read(r#"{"prompt":"q","chosen":"a","rejected":1}"#).unwrap_err();
        assert_eq!(error, "`rejected` is not a list");
    }

    #[test]
    fn alpaca_is_a_chat() {
        let without = read(r#"{"instruction":"a","input":"","output":"b"}"#).unwrap();
        assert_eq!(without.body, chat(&[("user", "a"), ("assistant", "b")]));
        let with = r#"{"instruction":"a","input":"x","output":"b","system":"s","category":7}"#;
        let with = read(with).unwrap();
        assert_eq!(with.body, chat(&[("system", "s"), ("user", "a\nx"), ("assistant", "b")]));
        assert_eq!(with.category.as_deref(), Some("7"));
        // The data set of that name has both: MLX-LM takes its `text`.
        let both = read(r#"{"instruction":"a","output":"b","text":"t"}"#).unwrap();
        assert_eq!(both.body, Body::Text("t".into()));
        let error = read(r#"{"instruction":"a","input":1,"output":"b"}"#).unwrap_err();
        assert_eq!(error, "`input` is not a string");
    }

    #[test]
    fn a_prompt_may_be_of_messages() {
        let record = read(
            r#"{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}]}"#,
        );
        assert_eq!(record.unwrap().body, chat(&[("user", "a"), ("assistant", "b")]));
        let mixed = r#"{"prompt":[{"role":"user","content":"a"}],"completion":"b"}"#;
        assert_eq!(read(mixed).unwrap_err(), "`completion` is not a list");
    }

    #[test]
    fn columns_may_have_other_names() {
        let features: Features =
            serde_json::from_str(r#"{"prompt_feature":"q","completion_feature":"a"}"#).unwrap();
        let columns = |json: &str| serde_json::from_str(json).unwrap();
        let record = Record::from_columns(columns(r#"{"q":"x","a":"y","text":"z"}"#), &features);
        assert_eq!(
            record.unwrap().body,
            Body::Completion { prompt: "x".into(), completion: "y".into(), tools: None }
        );
        let error = Record::from_columns(columns(r#"{"prompt":"x"}"#), &features).unwrap_err();
        assert!(error.contains("or `q` and `a`, or `text`; found [\"prompt\"]"), "{error}");
    }

    #[test]
    fn empty_cells_are_none() {
        let row = r#"{"prompt":"a","completion":"b","messages":null,"tools":"","category":""}"#;
        let record = read(row).unwrap();
        assert_eq!((record.body.form(), record.category), ("completions", None));
        assert!(read(r#"{"messages":null,"text":"t"}"#).is_ok());
        let tools = read(r#"{"prompt":"a","completion":"b","tools":"[{\"x\":1}]"}"#).unwrap();
        let Body::Completion { tools: Some(tools), .. } = tools.body else { panic!() };
        assert_eq!(tools, [json!({"x": 1})]);
    }
}
