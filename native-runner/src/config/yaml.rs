//! YAML values that know their lines.

use std::fmt;

use anyhow::Result;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// From 1.
    pub line: usize,
    pub value: Value,
}

/// A value. A number is its text, a whole one without a point.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<(String, Node)>),
}

/// Reads the text of the file called `name`; an empty one is an empty map.
pub fn parse(name: &str, text: &str) -> Result<Node> {
    let options = serde_saphyr::options! { with_snippet: false };
    let read: Result<Spanned<Value>, _> = serde_saphyr::from_str_with_options(text, options);
    let root = read.map_err(|error| {
        let line = error.location().map_or(1, |at| at.line() as usize);
        let problem = error.to_string();
        engram::Error::data(name, line, problem.split_whitespace().collect::<Vec<_>>().join(" "))
    })?;
    let mut node = Node::from(root);
    if node.value == Value::Null {
        node.value = Value::Map(Vec::new());
    }
    Ok(node)
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Node { line: spanned.referenced.line() as usize, value: spanned.value }
    }
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| &node.value)
    }
}

impl Value {
    /// A scalar as it would be typed; none of a list, a map or null.
    pub fn scalar(&self) -> Option<String> {
        match self {
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(text) | Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // 1e3 is a fine number of iterations; 1e-5 is read as it was written.
        let is_short = (1e-4..1e15).contains(&value.abs()) || value == 0.0;
        Ok(Value::Number(if is_short { format!("{value}") } else { format!("{value:e}") }))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Value>>()? {
            items.push(item.into());
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = access.next_entry::<String, Spanned<Value>>()? {
            entries.push((key, value.into()));
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Value {
        let Value::Map(mut entries) = parse("a.yaml", text).unwrap().value else { panic!("map") };
        entries.remove(0).1.value
    }

    #[test]
    fn scalars_are_what_they_look_like() {
        for (text, number) in [
            ("1e-5", "1e-5"),
            ("1E-5", "1e-5"),
            ("0.00001", "1e-5"),
            ("1.0e-05", "1e-5"),
            ("1e3", "1000"),
            ("-1", "-1"),
            ("20.0", "20"),
            ("18446744073709551615", "18446744073709551615"),
            ("1e300", "1e300"),
        ] {
            assert_eq!(of(&format!("a: {text}")), Value::Number(number.to_owned()), "{text}");
        }
        assert_eq!(of("a: true"), Value::Bool(true));
        assert_eq!([of("a:"), of("a: null"), of("a: ~")], [Value::Null, Value::Null, Value::Null]);
        assert_eq!(of("a: '1'"), Value::Text("1".into()));
        assert_eq!(of("a: hf:a/b"), Value::Text("hf:a/b".into()));
        assert_eq!(parse("a.yaml", "# nothing\n").unwrap().value, Value::Map(vec![]));
    }

    #[test]
    fn every_value_knows_its_line() {
        let root = parse("a.yaml", "a: 1\nb:\n  c: 2\n  d: [x,\n    y]\n").unwrap();
        let Value::Map(entries) = root.value else { panic!("map") };
        let Value::Map(inner) = &entries[1].1.value else { panic!("map") };
        let Value::List(items) = &inner[1].1.value else { panic!("list") };
        assert_eq!([entries[0].1.line, inner[0].1.line, inner[1].1.line], [1, 3, 4]);
        assert_eq!([items[0].line, items[1].line], [4, 5]);
    }

    #[test]
    fn what_is_no_yaml_is_one_line_with_its_place() {
        let deep = "[".repeat(100_000);
        for (text, start) in [
            ("a: 1\nb: [1\n", "a.yaml:"),
            ("a: 1\na: 2\n", "a.yaml:2: "),
            ("a: *b\n", "a.yaml:1: "),
            ("a: 1\nb: .nan\n", "a.yaml:2: non-finite float"),
            (deep.as_str(), "a.yaml:1: "),
        ] {
            let problem = parse("a.yaml", text).unwrap_err().to_string();
            assert!(problem.starts_with(start) && !problem.contains('\n'), "{problem}");
        }
    }
}
