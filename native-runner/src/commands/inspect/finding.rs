//! What was found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use indicatif::{DecimalBytes, HumanCount};
use serde_json::{Map, Value, json};

use crate::table::table;

/// Characters of a value that people get to see.
const SHOWN: usize = 128;

/// A file or folder and what it holds.
pub struct Finding {
    path: String,
    kind: &'static str,
    /// In the order in which they are shown; keys as in the JSON.
    fields: Vec<(&'static str, Value)>,
    tensors: BTreeMap<String, Count>,
    /// Of a file's own metadata.
    metadata: Map<String, Value>,
}

/// Tensors of one type.
#[derive(Default)]
struct Count {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

impl Finding {
    pub fn new(path: &Path, kind: &'static str) -> Self {
        Self {
            path: path.display().to_string(),
            kind,
            fields: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: Map::new(),
        }
    }

    /// Adds a field; null says nothing.
    pub fn field(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        if !value.is_null() {
            self.fields.push((key, value));
        }
    }

    /// Counts a tensor.
    pub fn tensor(&mut self, dtype: String, shape: &[usize], bytes: u64) {
        let count = self.tensors.entry(dtype).or_default();
        count.tensors += 1;
        count.parameters += shape.iter().map(|&size| size as u64).product::<u64>();
        count.bytes += bytes;
    }

    /// Adds an entry of the file's own metadata.
    pub fn metadata(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.to_owned(), value);
    }

    fn total(&self, of: fn(&Count) -> u64) -> u64 {
        self.tensors.values().map(of).sum()
    }

    pub fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert("path".into(), self.path.clone().into());
        all.insert("kind".into(), self.kind.into());
        all.extend(self.fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let types = self.tensors.iter().map(|(dtype, count)| {
            json!({
                "type": dtype, "tensors": count.tensors, "parameters": count.parameters,
                "bytes": count.bytes,
            })
        });
        all.insert("tensor_types".into(), types.collect());
        all.insert("parameters".into(), self.total(|count| count.parameters).into());
        all.insert("metadata".into(), self.metadata.clone().into());
        all.into()
    }

    pub fn text(&self) -> String {
        let mut out = format!("{}: {}\n", self.path, self.kind);
        let metadata = self.metadata.iter().map(|(key, value)| (key.as_str(), value));
        let fields = self.fields.iter().map(|(key, value)| (*key, value));
        list(&mut out, "  ", &fields.collect::<Vec<_>>());
        if !self.metadata.is_empty() {
            out += "  metadata\n";
            list(&mut out, "    ", &metadata.collect::<Vec<_>>());
        }
        let row = |name: &str, count: &Count| {
            let number = |n: u64| HumanCount(n).to_string();
            let bytes = DecimalBytes(count.bytes).to_string();
            vec![name.to_owned(), number(count.tensors), number(count.parameters), bytes]
        };
        let mut rows: Vec<_> = self.tensors.iter().map(|(name, count)| row(name, count)).collect();
        if rows.len() > 1 {
            let total = Count {
                tensors: self.total(|count| count.tensors),
                parameters: self.total(|count| count.parameters),
                bytes: self.total(|count| count.bytes),
            };
            rows.push(row("all", &total));
        }
        if !rows.is_empty() {
            let table = table(&["type", "tensors", "parameters", "bytes"], &rows);
            table.lines().for_each(|line| out.extend(["  ", line, "\n"]));
        }
        out
    }
}

/// Keys and values, one a line.
fn list(out: &mut String, indent: &str, fields: &[(&str, &Value)]) {
    let width = fields.iter().map(|(key, _)| printable(key).chars().count()).max().unwrap_or(0);
    for (key, value) in fields {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{indent}{:width$}  {}", printable(key), printable(&shown(value)));
    }
}

/// A value in a line.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let numbers: Vec<u64> = items.iter().filter_map(Value::as_u64).collect();
            match numbers[..] {
                // A run of numbers, such as an adapter's layers.
                [first, .., last]
                    if numbers.len() == items.len()
                        && items.len() > 3
                        && numbers.array_windows().all(|[a, b]| a + 1 == *b) =>
                {
                    format!("{first} to {last}")
                }
                _ => items.iter().map(shown).collect::<Vec<_>>().join(", "),
            }
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{key} {}", shown(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// A number as the shortest decimal that is read as the same f32, if it was one.
pub fn short(number: f64) -> f64 {
    let single = number as f32;
    match f64::from(single) == number {
        true => single.to_string().parse().unwrap_or(number),
        false => number,
    }
}

/// The start of a text, with escapes for what would move a terminal's cursor.
fn printable(text: &str) -> String {
    let escaped = |c: char| -> String {
        if c.is_control() { c.escape_default().collect() } else { c.into() }
    };
    let mut chars = text.chars();
    let mut out: String = chars.by_ref().take(SHOWN).map(escaped).collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_can_not_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(printable(&"x".repeat(SHOWN)), "x".repeat(SHOWN));
        assert!(printable(&"x".repeat(SHOWN + 1)).ends_with("x…"));
    }

    #[test]
    fn floats_are_short() {
        assert_eq!([short(f64::from(1e-5_f32)), short(0.1), short(2.5)], [1e-5, 0.1, 2.5]);
        assert!(short(f64::NAN).is_nan());
    }

    #[test]
    fn types_are_counted_and_summed() {
        let mut finding = Finding::new(Path::new("m"), "model");
        finding.field("layers", 2);
        finding.field("none", Value::Null);
        finding.field("blocks", vec![3, 4, 5, 6]);
        finding.tensor("F32".into(), &[2, 3], 24);
        finding.tensor("F16".into(), &[1000], 2000);
        finding.tensor("F32".into(), &[], 4);
        let expected = "m: model\n  layers  2\n  blocks  3 to 6\n  type  tensors  parameters    bytes\n  \
                        F16         1       1,000  2.00 kB\n  F32         2           7     28 B\n  \
                        all         3       1,007  2.03 kB\n";
        assert_eq!(finding.text(), expected);
        assert_eq!(finding.json()["parameters"], 1007);
        assert_eq!(finding.json()["tensor_types"][1]["tensors"], 2);
    }
}
