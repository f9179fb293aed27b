//! Data files of any kind, by the ends of their names.

use serde_json::{Map, Value};

use super::record::{Features, Record, push};
use super::tokens::{Encode, Example, LossOn};
use super::{csv, jsonl, tokens};
use crate::{Error, Result};

/// The ends of the names of what [`RecordFile::parse`] reads.
pub const EXTENSIONS: [&str; 3] = ["jsonl", "json", "csv"];

/// The records of a file, and where in it each stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordFile {
    /// How errors call it.
    pub name: String,
    /// In the order of the file.
    pub records: Vec<Record>,
    /// Where each begins: its line, or its row where lines say nothing, as in Parquet.
    numbers: Vec<usize>,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Line,
    Row,
}

impl RecordFile {
    /// Reads a file by its name's end: `.json` is an array of objects, or lines as Hugging Face's
    /// `to_json` writes them; `.csv` is CSV; all else is JSON lines.
    ///
    /// # Errors
    /// One line that names the file and the line or row that can't be used.
    pub fn parse(name: &str, bytes: &[u8], features: &Features) -> Result<Self> {
        let extension = name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
        let unmarked = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let is_array = unmarked.trim_ascii_start().first() == Some(&b'[');
        match extension.as_deref() {
            Some("csv") => {
                let (records, lines) = csv::parse(name, bytes, features)?;
                Ok(Self { name: name.into(), records, numbers: lines, unit: Unit::Line })
            }
            Some("json") if is_array => {
                let rows: Vec<Value> = serde_json::from_slice(unmarked)
                    .map_err(|error| Error::data(name, error.line(), jsonl::not_json(&error)))?;
                let rows = rows.into_iter().map(|row| match row {
                    Value::Object(columns) => Ok(columns),
                    _ => Err("not a JSON object".to_owned()),
                });
                Self::from_rows(name, rows, features)
            }
            _ => {
                let records = jsonl::parse_as(name, bytes, features)?;
                let numbers = (1..=records.len()).collect();
                Ok(Self { name: name.into(), records, numbers, unit: Unit::Line })
            }
        }
    }

    /// Reads rows, which are counted from 1.
    ///
    /// # Errors
    /// What a row says that can't be read; the row that is no record; no row at all.
    pub fn from_rows(
        name: &str,
        rows: impl IntoIterator<Item = Result<Map<String, Value>, String>>,
        features: &Features,
    ) -> Result<Self> {
        let mut records = Vec::new();
        for (i, row) in rows.into_iter().enumerate() {
            row.and_then(|row| Record::from_columns(row, features))
                .and_then(|record| push(&mut records, record))
                .map_err(|problem| Error::format(row_of(name, i + 1), problem))?;
        }
        if records.is_empty() {
            return Err(Error::format(name, "no records in it"));
        }
        let numbers = (1..=records.len()).collect();
        Ok(Self { name: name.into(), records, numbers, unit: Unit::Row })
    }

    /// Where a record is: `FILE:LINE` or `FILE, row ROW`.
    pub fn place(&self, record: usize) -> String {
        let number = self.numbers.get(record).copied().unwrap_or(0);
        match self.unit {
            Unit::Line => format!("{}:{number}", self.name),
            Unit::Row => row_of(&self.name, number),
        }
    }

    /// Parts it in two: the records that `held_out` marks come second.
    pub fn part(self, held_out: &[bool]) -> (Self, Self) {
        let Self { name, records, numbers, unit } = self;
        let mut kept = Self { name, records: Vec::new(), numbers: Vec::new(), unit };
        let mut held = kept.clone();
        for ((record, number), held_out) in records.into_iter().zip(numbers).zip(held_out) {
            let side = if *held_out { &mut held } else { &mut kept };
            side.records.push(record);
            side.numbers.push(number);
        }
        (kept, held)
    }

    /// Its records as examples, one after another.
    ///
    /// # Errors
    /// As [`tokens::tokenize`], with the record's place in the file.
    pub fn examples<'a>(
        &'a self,
        encode: &'a impl Encode,
        loss_on: LossOn,
    ) -> impl Iterator<Item = Result<Example>> + 'a {
        self.records.iter().enumerate().map(move |(i, record)| {
            tokens::example(record, encode, loss_on)
                .map_err(|error| Error::format(self.place(i), error.to_string()))
        })
    }
}

fn row_of(name: &str, row: usize) -> String {
    format!("{name}, row {row}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use proptest::prelude::*;

    fn parse(name: &str, bytes: &[u8]) -> Result<RecordFile> {
        RecordFile::parse(name, bytes, &Features::default())
    }

    #[test]
    fn the_end_of_the_name_says_what_it_is() {
        let array = b"\xef\xbb\xbf\n[{\"text\":\"a\"},\n {\"text\":\"b\"}]\n";
        let lines = b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n";
        let table = b"id,text\n1,a\n2,b\n";
        let read = [
            parse("d/x.json", array),
            parse("x.JSON", lines),
            parse("x.jsonl", lines),
            parse("x", lines),
            parse("x.y.csv", table),
        ];
        let places = ["d/x.json, row 2", "x.JSON:2", "x.jsonl:2", "x:2", "x.y.csv:3"];
        for (file, place) in read.into_iter().zip(places) {
            let file = file.unwrap();
            assert_eq!(file.records.len(), 2);
            assert_eq!(file.place(1), place);
            let (kept, held) = file.part(&[true, false]);
            assert_eq!((kept.records.len(), held.records.len()), (1, 1));
            assert_eq!(kept.place(0), place);
        }
    }

    #[test]
    fn each_mistake_names_its_place() {
        for (name, text, expected) in [
            ("x.json", "[]", "x.json: no records in it"),
            ("x.json", "", "x.json: no records"),
            ("x.json", "[\n{},\n", "x.json:3: not JSON: EOF"),
            ("x.json", "[{\"text\":\"a\"}]x", "x.json:1: not JSON: trailing characters"),
            ("x.json", "[{\"text\":\"a\"},1]", "x.json, row 2: not a JSON object"),
            ("x.json", "[{\"text\":\"a\"},{}]", "x.json, row 2: a record has `messages`"),
            ("x.json", "[{\"text\":1e999}]", "x.json:1: not JSON: number out of range"),
            (
                "x.json",
                "[{\"text\":\"a\"},{\"prompt\":\"a\",\"completion\":\"b\"}]",
                "x.json, row 2: a completions record in a file of text",
            ),
            ("x.jsonl", "[{\"text\":\"a\"}]", "x.jsonl:1: not a JSON object"),
        ] {
            let error = parse(name, text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(parse("x.json", &[b'['; 100_000]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse("x.json", &[b"[{\"text\":", &bytes[..]].concat());
        }
    }
}
