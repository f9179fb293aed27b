//! Chats as prompts, by the Jinja template that comes with a model.
//!
//! The template is rendered as Hugging Face's `apply_chat_template` does: `trim_blocks` and
//! `lstrip_blocks` on, loop controls, Python's methods on strings and maps, `tojson` as
//! `json.dumps` writes, `raise_exception`, `strftime_now`, and `{% generation %}` blocks.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};

use super::LocalTime;
use super::python_json::JsonStyle;
use crate::{Error, Result};

/// Steps that one rendering may take. A chat of a thousand messages takes about 50,000.
const FUEL: u64 = 5_000_000;
/// Longest template, in bytes; the longest in use have about 20,000.
const MAX_SOURCE: usize = 1 << 20;
const TEMPLATE: &str = "chat_template";
/// Begins the detail of an error that the template itself raised.
const REFUSAL: &str = "the chat template refuses: ";

/// One message of a chat.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows (`tool`).
    pub role: String,
    /// The text; none for a message that only calls tools.
    #[serde(default)]
    pub content: Option<String>,
    /// Further fields, which templates may read: `tool_calls`, `name`, ….
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), extra: serde_json::Map::new() }
    }
}

/// What a template is given besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Ends the prompt with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// JSON schemas of tools.
    pub tools: Option<Vec<serde_json::Value>>,
    /// Documents to answer from.
    pub documents: Option<Vec<serde_json::Value>>,
    /// The reader's clock. Without it `strftime_now` is not defined, and templates fall back on
    /// a date of their own or leave it out.
    pub now: Option<LocalTime>,
    /// Further variables of the template (`enable_thinking`, …).
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// A model's chat template.
///
/// ```
/// use engram::text::{ChatTemplate, Message};
///
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
/// let template = ChatTemplate::new("tokenizer_config.json", source, None, None)?;
/// assert_eq!(template.render(&[Message::new("user", "Hi")], false)?, "<user>Hi");
/// # Ok::<(), engram::Error>(())
/// ```
///
/// A template is a program from an untrusted hand. Its steps and its recursion are limited, and
/// it reaches nothing but its variables; the memory that it takes is not limited.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    name: String,
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template; `name` is what errors call it. The tokens, as the vocabulary spells
    /// them, are the template's variables `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of a syntax error; [`Error::Format`] for an empty template
    /// (a model without one needs one given, or raw prompts) and for one over 1 MiB.
    pub fn new(
        name: &str,
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self> {
        if source.trim().is_empty() {
            return Err(Error::format(
                name,
                "there is no chat template; give one, or use prompts without a template",
            ));
        }
        if source.len() > MAX_SOURCE {
            return Err(Error::format(
                name,
                format!("a chat template of {} bytes; {MAX_SOURCE} are allowed", source.len()),
            ));
        }
        let mut environment = environment()?;
        environment
            .add_template_owned(TEMPLATE, without_generation_tags(source))
            .map_err(|error| template_error(name, &error))?;
        Ok(Self {
            name: name.to_owned(),
            environment,
            bos_token: bos_token.map(str::to_owned),
            eos_token: eos_token.map(str::to_owned),
        })
    }

    /// The prompt for a chat; `add_generation_prompt` ends it with the beginning of the
    /// assistant's answer.
    ///
    /// The template writes the special tokens, so tokenise with `add_special_tokens` off.
    ///
    /// # Errors
    /// [`Error::Data`] with the line of the template: what `raise_exception` says, a fault of the
    /// template, or too many steps.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(
            messages,
            &RenderOptions { add_generation_prompt, ..RenderOptions::default() },
        )
    }

    /// [`render`](Self::render) with tools, documents, a clock or further variables.
    ///
    /// # Errors
    /// Those of [`render`](Self::render).
    pub fn render_with(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let error = |error: minijinja::Error| template_error(&self.name, &error);
        let mut variables: Vec<(&str, Value)> = options
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), Value::from(Serde(value))))
            .collect();
        variables.extend([
            ("messages", Value::from(Serde(messages))),
            ("tools", Value::from(Serde(&options.tools))),
            ("documents", Value::from(Serde(&options.documents))),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
        ]);
        for (name, token) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)] {
            variables.extend(token.as_ref().map(|token| (name, Value::from(token.as_str()))));
        }
        if let Some(now) = options.now {
            let strftime = move |format: &str| {
                now.strftime(format).map_err(|error| {
                    minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string())
                })
            };
            variables.push(("strftime_now", Value::from_function(strftime)));
        }
        let template = self.environment.get_template(TEMPLATE).map_err(error)?;
        template.render(Value::from_pairs(variables)).map_err(error)
    }
}

/// Jinja as `transformers` sets it up.
fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| Error::invalid(error.to_string()))?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    // Rust's stack in a browser tab is 1 MiB; templates in use nest three or four deep.
    environment.set_recursion_limit(100);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{message}")))
    });
    Ok(environment)
}

/// Hugging Face's `tojson(value, ensure_ascii, indent, separators, sort_keys)`.
fn to_json(value: Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let style = JsonStyle {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent: kwargs.get("indent")?,
        separators: match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
            Some([comma, colon]) => Some((comma.clone(), colon.clone())),
            Some(_) => {
                return Err(minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    "tojson: separators are two strings",
                ));
            }
            None => None,
        },
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let value = serde_json::to_value(&value).map_err(|error| {
        minijinja::Error::new(ErrorKind::BadSerialization, format!("tojson: {error}"))
    })?;
    Ok(Value::from(style.dumps(&value)))
}

/// Replaces `{% generation %}` … `{% endgeneration %}`, which mark the assistant's own tokens for
/// training masks, by a block that only groups; whitespace control stays.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let end = tag.find("%}").unwrap_or(tag.len());
        let word = tag[..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        rest = match replacement {
            Some(replacement) => {
                out.push_str(&tag[..end].replacen(word, replacement, 1));
                &tag[end..]
            }
            None => tag,
        };
    }
    out.push_str(rest);
    out
}

/// One line: what is wrong and in which line of the template.
fn template_error(name: &str, error: &minijinja::Error) -> Error {
    let problem = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            format!("chat template: takes more than {FUEL} steps; shorten the chat or the template")
        }
        (_, Some(refusal)) if refusal.starts_with(REFUSAL) => refusal.to_owned(),
        (kind, Some(detail)) => format!("chat template: {kind}: {detail}"),
        (kind, None) => format!("chat template: {kind}"),
    };
    Error::data(name, error.line().unwrap_or(1), problem.replace(['\r', '\n'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new("t.jinja", source, Some("<s>"), Some("</s>")).unwrap()
    }

    fn render(source: &str) -> Result<String> {
        template(source).render(&[Message::new("user", "Hi")], true)
    }

    fn error(source: &str) -> String {
        let rendered = ChatTemplate::new("t.jinja", source, None, None)
            .and_then(|template| template.render(&[Message::new("user", "Hi")], true));
        let line = rendered.unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    /// Cases rendered by transformers: `scripts/goldens/text.py`.
    #[test]
    fn renders_what_transformers_renders() {
        #[derive(Deserialize)]
        struct Goldens {
            templates: serde_json::Map<String, serde_json::Value>,
            cases: Vec<Case>,
        }
        #[derive(Deserialize)]
        struct Case {
            template: String,
            messages: Vec<Message>,
            add_generation_prompt: bool,
            tools: Option<Vec<serde_json::Value>>,
            #[serde(default)]
            variables: serde_json::Map<String, serde_json::Value>,
            expected: Option<String>,
            error: Option<String>,
        }
        let file = include_str!("../../data/goldens/chat_templates.json");
        let goldens: Goldens = serde_json::from_str(file).unwrap();
        assert!(goldens.cases.len() > 40);
        for case in goldens.cases {
            let entry = &goldens.templates[&case.template];
            let chat = ChatTemplate::new(
                &case.template,
                entry["source"].as_str().unwrap(),
                entry["bos_token"].as_str(),
                entry["eos_token"].as_str(),
            )
            .unwrap();
            let options = RenderOptions {
                add_generation_prompt: case.add_generation_prompt,
                tools: case.tools,
                variables: case.variables,
                now: Some(LocalTime { unix_seconds: 1_709_211_845, utc_offset_seconds: 0 }),
                documents: None,
            };
            let rendered = chat.render_with(&case.messages, &options);
            match (rendered, case.expected) {
                (Ok(text), Some(expected)) => {
                    assert_eq!(text, expected, "{}: {:?}", case.template, case.messages);
                }
                (Err(error), None) => {
                    let expected = case.error.unwrap();
                    assert!(error.to_string().contains(&expected), "{error} / {expected}");
                }
                (rendered, expected) => panic!("{}: {rendered:?} / {expected:?}", case.template),
            }
        }
    }

    #[test]
    fn the_clock_is_the_callers() {
        let source =
            "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}-{% endif %}";
        assert_eq!(render(source).unwrap(), "-");
        let now = Some(LocalTime { unix_seconds: 0, utc_offset_seconds: 0 });
        let options = RenderOptions { now, ..RenderOptions::default() };
        assert_eq!(template(source).render_with(&[], &options).unwrap(), "1970");
    }

    #[test]
    fn generation_tags_only_group() {
        let source = "a {%- generation -%} {{ messages[0].content }} {%endgeneration%}{% raw %}{% x {% endraw %}";
        assert_eq!(render(source).unwrap(), "aHi {% x ");
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            error("a\n{{ raise_exception('roles\nmust alternate') }}"),
            "t.jinja:2: the chat template refuses: roles must alternate"
        );
        assert!(error("a\n\n{% if %}").starts_with("t.jinja:3: chat template: syntax error"));
        assert!(error("{{ messages | nothing }}").starts_with("t.jinja:1: "));
        assert!(error("{{ messages[7].content.x }}").starts_with("t.jinja:1: "));
        assert!(error("{{ {'a': 1} | tojson(separators=['a']) }}").contains("separators"));
        assert!(error("  \n ").contains("no chat template"));
        assert!(error(&" x".repeat(MAX_SOURCE)).contains("bytes"));
    }

    #[test]
    fn a_hostile_template_ends() {
        let hours =
            "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(error(hours).contains("steps"));
        let endless = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(error(endless).starts_with("t.jinja:"));
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(error(&deep).starts_with("t.jinja:1: "));
        let nested = "{% if true %}".repeat(50_000);
        assert!(error(&nested).starts_with("t.jinja:"));
        assert!(error("{{ messages[0].content * 99999999999 }}").starts_with("t.jinja:1: "));
    }

    #[test]
    fn messages_keep_their_other_fields() {
        let json = r#"{"role":"assistant","content":null,"tool_calls":[{"name":"f"}]}"#;
        let message: Message = serde_json::from_str(json).unwrap();
        assert_eq!(message.extra["tool_calls"][0]["name"], "f");
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
        let source = "{{ messages[0].content is none }} {{ messages[0].tool_calls[0].name }}";
        assert_eq!(template(source).render(&[message], false).unwrap(), "True f");
        let plain: Message = serde_json::from_str(r#"{"role":"user"}"#).unwrap();
        assert_eq!(plain, Message { role: "user".into(), ..Message::default() });
    }
}
