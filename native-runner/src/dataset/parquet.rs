//! Rows of Parquet files.

use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use engram::data::file::RecordFile;
use engram::data::record::Features;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value, json};

/// Reads a file; `name` is how errors call it.
pub fn read(path: &Path, name: &str, features: &Features) -> Result<RecordFile> {
    let file = File::open(path).with_context(|| name.to_owned())?;
    unpanicked(|| {
        let reader = SerializedFileReader::new(file)
            .map_err(|error| anyhow!("{name}: no Parquet file: {}", plain(&error)))?;
        let rows = reader
            .get_row_iter(None)
            .map_err(|error| anyhow!("{name}: {}", plain(&error)))?
            .map(|row| row.map(object).map_err(|error| plain(&error)));
        Ok(RecordFile::from_rows(name, rows, features)?)
    })
    .unwrap_or_else(|| Err(anyhow!("{name}: a damaged Parquet file; write it again")))
}

/// What `read` returns, or none where it panics, as the crate does on some damaged pages.
fn unpanicked<T>(read: impl FnOnce() -> T) -> Option<T> {
    // The hook, which would print the panic, is the process's.
    static HOOK: Mutex<()> = Mutex::new(());
    let _held = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    panic::set_hook(hook);
    result.ok()
}

/// What went wrong, in one line.
fn plain(error: &ParquetError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// A row without its empty cells: a column has one for what only other rows have.
fn object(row: Row) -> Map<String, Value> {
    row.into_columns()
        .into_iter()
        .map(|(column, field)| (column, value(field)))
        .filter(|(_, value)| !value.is_null())
        .collect()
}

fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => json!(b),
        Field::Byte(n) => json!(n),
        Field::Short(n) => json!(n),
        Field::Int(n) => json!(n),
        Field::Long(n) => json!(n),
        Field::UByte(n) => json!(n),
        Field::UShort(n) => json!(n),
        Field::UInt(n) => json!(n),
        Field::ULong(n) => json!(n),
        Field::Float16(x) => json!(f32::from(x)),
        Field::Float(x) => json!(x),
        Field::Double(x) => json!(x),
        Field::Str(text) => Value::String(text),
        // Texts of writers that don't say so; not images.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => json!(text),
            Err(_) => Value::Null,
        },
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| match key {
                Field::Str(key) => (key.clone(), value(field.clone())),
                other => (other.to_string(), value(field.clone())),
            };
            map.entries().iter().map(entry).collect::<Map<_, _>>().into()
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => json!(field.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/goldens/parquet").join(name)
    }

    fn read(path: &Path) -> Result<RecordFile> {
        super::read(path, "x.parquet", &Features::default())
    }

    #[test]
    fn rows_are_the_records_that_were_written() {
        for name in ["chats", "completions", "texts"] {
            let rows = read(&golden(&format!("{name}.parquet"))).unwrap();
            let lines = std::fs::read(golden(&format!("{name}.jsonl"))).unwrap();
            let lines = engram::data::jsonl::parse(name, &lines).unwrap();
            assert_eq!(rows.records, lines, "{name}");
            assert_eq!(rows.place(1), "x.parquet, row 2");
        }
    }

    #[test]
    fn every_compression_of_pyarrow_is_read() {
        // The others are those of the files above.
        let zstd = read(&golden("completions.parquet")).unwrap().records;
        for name in ["gzip", "brotli", "lz4"] {
            assert_eq!(read(&golden(&format!("{name}.parquet"))).unwrap().records, zstd, "{name}");
        }
    }

    #[test]
    fn what_is_no_parquet_is_told_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let whole = std::fs::read(golden("completions.parquet")).unwrap();
        let end = whole.len();
        for bytes in [&b""[..], b"PAR1", &whole[..end / 2], &whole[..end - 1], &whole[end / 2..]] {
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.starts_with("x.parquet") && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn damage_is_an_error_or_another_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for name in [
            "chats.parquet",
            "completions.parquet",
            "texts.parquet",
            "brotli.parquet",
            "lz4.parquet",
        ] {
            let whole = std::fs::read(golden(name)).unwrap();
            for i in 0..200 {
                let mut bytes = whole.clone();
                let at = i * 7919 % bytes.len();
                bytes[at] ^= 1 << (i % 8);
                std::fs::write(&path, &bytes).unwrap();
                let _ = read(&path);
            }
        }
    }
}
