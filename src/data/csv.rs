//! Data sets as CSV: the first line names the columns of [`super::record`], every further record
//! is a row.

use serde_json::{Map, Value};

use super::record::{Features, Record, push};
use crate::{Error, Result};

/// Reads a file; also says on which line each record begins. `name` is how errors call it.
///
/// # Errors
/// [`Error::Data`] with the line of a row that is not UTF-8, has more or fewer cells than there
/// are columns, or is no record; [`Error::Format`] where there is no row at all.
pub(super) fn parse(
    name: &str,
    bytes: &[u8],
    features: &Features,
) -> Result<(Vec<Record>, Vec<usize>)> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(bytes);
    let columns = reader.headers().map_err(|error| explain(name, bytes, &error))?.clone();
    let twice = columns
        .iter()
        .enumerate()
        .find(|(i, column)| columns.iter().take(*i).any(|before| before == *column));
    if let Some((_, column)) = twice {
        return Err(Error::data(name, 1, format!("the column {column:?} is there twice")));
    }
    let (mut records, mut lines) = (Vec::new(), Vec::new());
    let (mut line, mut counted) = (1, 0);
    for row in reader.records() {
        let row = row.map_err(|error| explain(name, bytes, &error))?;
        let begins = beginning(bytes, row.position());
        line += line_feeds(&bytes[counted.min(begins)..begins]);
        counted = begins;
        let cell = |(column, text): (&str, &str)| (column.to_owned(), Value::from(text));
        let cells: Map<String, Value> = columns.iter().zip(&row).map(cell).collect();
        Record::from_columns(cells, features)
            .and_then(|record| push(&mut records, record))
            .map_err(|problem| Error::data(name, line, problem))?;
        lines.push(line);
    }
    if records.is_empty() {
        return Err(Error::format(name, "no records; write a line of column names, then rows"));
    }
    Ok((records, lines))
}

/// Where a row begins. A row's own position may be that of the line's end before it.
fn beginning(bytes: &[u8], position: Option<&csv::Position>) -> usize {
    let at = position.map_or(0, |position| position.byte() as usize).min(bytes.len());
    at + bytes[at..].iter().take_while(|byte| b"\r\n".contains(byte)).count()
}

fn line_feeds(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

fn explain(name: &str, bytes: &[u8], error: &csv::Error) -> Error {
    let problem = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "not UTF-8; save the file as UTF-8".to_owned(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells for {expected_len} columns; check its commas and quotation marks")
        }
        _ => error.to_string(),
    };
    let line = 1 + line_feeds(&bytes[..beginning(bytes, error.position())]);
    Error::data(name, line, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::record::Body;
    use crate::testing::test;
    use proptest::prelude::*;

    fn parse(text: impl AsRef<[u8]>) -> Result<(Vec<Record>, Vec<usize>)> {
        super::parse("x", text.as_ref(), &Features::default())
    }

    #[test]
    fn rows_are_records_and_know_their_lines() {
        let text = "\u{feff}prompt, completion,category\r\n\"a,\n\"\"b\"\"\",c,k\r\n\r\nd,e,\r\n";
        let (records, lines) = parse(text).unwrap();
        assert_eq!(lines, [2, 5]);
        let completion = |prompt: &str, completion: &str| Body::Completion {
            prompt: prompt.into(),
            completion: completion.into(),
            tools: None,
        };
        assert_eq!(records[0].body, completion("a,\n\"b\"", "c"));
        assert_eq!(records[0].category.as_deref(), Some("k"));
        assert_eq!(records[1], Record { body: completion("d", "e"), category: None });
    }

    #[test]
    fn lists_are_json() {
        let text = "messages\n\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"a\"\"}]\"\n";
        assert_eq!(parse(text).unwrap().0[0].body.form(), "chat");
        let error = parse("messages\n[oops\n").unwrap_err().to_string();
        assert_eq!(error, "x:2: `messages` is not a list");
    }

    #[test]
    fn each_mistake_names_its_line() {
        for (text, expected) in [
            (&b""[..], "x: no records"),
            (b"\xef\xbb\xbf", "x: no records"),
            (b"text\n", "x: no records"),
            (b"text\n\n\n", "x: no records"),
            (b"prompt,completion\na,b\nc\n", "x:3: 1 cells for 2 columns"),
            (b"prompt,completion\na,b,c\n", "x:2: 3 cells for 2 columns"),
            (b"text\na\n\xff\n", "x:3: not UTF-8"),
            (b"t\xff\na\n", "x:1: not UTF-8"),
            (b"text,text\na,b\n", "x:1: the column \"text\" is there twice"),
            (b"txt\na\n", "x:2: a record has `messages`"),
            (b"text,x\na,1\n\"\",1\n", "x:3: `text` is empty"),
            (b"text,tools\na,{}\n", "x:2: `tools` is not a list"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_csv_writes_is_read_again(texts in proptest::collection::vec("\\PC{1,9}[\",\r\n;]{0,3}\\PC{0,9}", 1..5)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["id", "text"]).unwrap();
            for text in &texts {
                writer.write_record(["1", text]).unwrap();
            }
            let (records, _) = parse(writer.into_inner().unwrap()).unwrap();
            let read: Vec<Body> = records.into_iter().map(|record| record.body).collect();
            let written: Vec<Body> = texts.into_iter().map(Body::Text).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse([b"prompt,completion,tools\n", &bytes[..]].concat());
        }
    }
}
