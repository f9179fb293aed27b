//! Data sets as JSON lines: one record an object, one object a line, all lines of a file in one of
//! the forms of [`super::record`].
//!
//! Blank lines may stand only at the end, so record `i` of a file is its line `i + 1`.

use serde_json::Value;

pub use super::record::{Body, Message, Record};
use super::record::{Features, push};
use crate::{Error, Result};

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
    parse_as(name, bytes, &Features::default())
}

/// As [`parse`], from columns of other names.
pub(super) fn parse_as(name: &str, bytes: &[u8], features: &Features) -> Result<Vec<Record>> {
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
        parse_line(line, features)
            .and_then(|record| push(&mut records, record))
            .map_err(|problem| Error::data(name, number, problem))?;
    }
    if records.is_empty() {
        return Err(Error::format(name, "no records; write one JSON object a line"));
    }
    Ok(records)
}

fn parse_line(line: &[u8], features: &Features) -> Result<Record, String> {
    let line = std::str::from_utf8(line).map_err(|_| "not UTF-8; save the file as UTF-8")?;
    // serde_json counts lines within the one line it was given.
    let value: Value = serde_json::from_str(line).map_err(|error| not_json(&error))?;
    match value {
        Value::Object(columns) => Record::from_columns(columns, features),
        _ => Err("not a JSON object; write one object a line".into()),
    }
}

/// What is wrong, without the line.
pub(super) fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    format!("not JSON: {text} at column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use proptest::prelude::*;
    use serde_json::json;

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
            ("{\"text\":\"a\",\"category\":[3]}", "x:2: `category` is not a string"),
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
