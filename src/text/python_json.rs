//! JSON as Python's `json.dumps` writes it: templates were trained with its spaces.

use serde_json::Value;

/// The arguments of `json.dumps` that templates use.
#[derive(Debug, Default)]
pub(super) struct JsonStyle {
    /// Spaces per level; one line if `None`.
    pub(super) indent: Option<usize>,
    /// Between items, and between a key and its value.
    pub(super) separators: Option<(String, String)>,
    /// Writes characters outside ASCII as `\uXXXX`.
    pub(super) ensure_ascii: bool,
    /// Sorts the keys of objects.
    pub(super) sort_keys: bool,
}

impl JsonStyle {
    /// Writes `value`.
    pub(super) fn dumps(&self, value: &Value) -> String {
        let mut out = String::new();
        self.write(value, 0, &mut out);
        out
    }

    fn write(&self, value: &Value, level: usize, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => match number.as_f64() {
                Some(float) if number.is_f64() => out.push_str(&float_repr(float)),
                _ => out.push_str(&number.to_string()),
            },
            Value::String(text) => self.string(text, out),
            Value::Array(items) => self.items(['[', ']'], items, level, out, |item, out| {
                self.write(item, level + 1, out);
            }),
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.items(['{', '}'], &entries, level, out, |(key, value), out| {
                    self.string(key, out);
                    out.push_str(self.separators.as_ref().map_or(": ", |(_, colon)| colon));
                    self.write(value, level + 1, out);
                });
            }
        }
    }

    fn items<T>(
        &self,
        [open, close]: [char; 2],
        items: &[T],
        level: usize,
        out: &mut String,
        write: impl Fn(&T, &mut String),
    ) {
        let comma = match &self.separators {
            Some((comma, _)) => comma,
            None if self.indent.is_some() => ",",
            None => ", ",
        };
        let newline = |level: usize, out: &mut String| {
            if let Some(indent) = self.indent.filter(|_| !items.is_empty()) {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * level));
            }
        };
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(comma);
            }
            newline(level + 1, out);
            write(item, out);
        }
        newline(level, out);
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                _ if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Python's `repr` of a float: the same digits as Rust's, an exponent of at least two digits.
fn float_repr(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, size) = match exponent.strip_prefix('-') {
                Some(size) => ('-', size),
                None => ('+', exponent),
            };
            format!("{}e{sign}{size:0>2}", digits.strip_suffix(".0").unwrap_or(digits))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::test;

    // The expected strings are those of CPython 3's `json.dumps`.

    #[test]
    fn writes_pythons_spaces() {
        let value = json!({"b": [1, 2.0, {"x": null}], "a": [], "é": "\u{1}\"\n/"});
        let one_line = JsonStyle::default();
        assert_eq!(
            one_line.dumps(&value),
            r#"{"b": [1, 2.0, {"x": null}], "a": [], "é": "\u0001\"\n/"}"#
        );
        let sorted = JsonStyle { ensure_ascii: true, sort_keys: true, ..JsonStyle::default() };
        assert_eq!(
            sorted.dumps(&json!({"z": "😀\u{7f}", "é": {}, "b": true})),
            r#"{"b": true, "z": "\ud83d\ude00\u007f", "\u00e9": {}}"#
        );
        let compact =
            JsonStyle { separators: Some((",".into(), ":".into())), ..JsonStyle::default() };
        assert_eq!(compact.dumps(&json!({"a": [1, 2]})), r#"{"a":[1,2]}"#);
    }

    #[test]
    fn indents() {
        let indented = JsonStyle { indent: Some(2), ..JsonStyle::default() };
        assert_eq!(
            indented.dumps(&json!({"a": [1, {}], "b": {"c": 1}})),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": {\n    \"c\": 1\n  }\n}"
        );
    }

    #[test]
    fn writes_pythons_floats() {
        for (value, expected) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (123456789012345.0, "123456789012345.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-2.5e-7, "-2.5e-07"),
        ] {
            assert_eq!(float_repr(value), expected);
        }
    }
}
