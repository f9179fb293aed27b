//! The key–value part of a GGUF file.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::Cursor;
use crate::{Error, Result};

/// Arrays of arrays deeper than this are refused; no known file has any.
const MAX_DEPTH: usize = 4;

/// One value of GGUF metadata; the widths of numbers are widened.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `uint8` to `uint64`.
    Unsigned(u64),
    /// `int8` to `int64`.
    Signed(i64),
    /// `float32` and `float64`.
    Float(f64),
    /// `bool`.
    Bool(bool),
    /// `string`.
    String(String),
    /// `array`.
    Array(Array),
}

/// An array of GGUF metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Numbers or booleans, kept as they are stored: a hostile file can't make them grow.
    Scalars(Scalars),
    /// Strings.
    Strings(Vec<String>),
    /// Arrays, each with its own type.
    Arrays(Vec<Array>),
}

/// Numbers or booleans as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalars {
    kind: Scalar,
    bytes: Vec<u8>,
}

impl Scalars {
    /// The values in order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = Value> {
        self.bytes.chunks_exact(self.kind.size()).map(|bytes| self.kind.decode(bytes))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scalar {
    Unsigned(usize),
    Signed(usize),
    Float32,
    Float64,
    Bool,
}

impl Scalar {
    /// GGUF's `gguf_metadata_value_type`, without string (8) and array (9).
    fn of(id: u32) -> Option<Self> {
        Some(match id {
            0 => Scalar::Unsigned(1),
            1 => Scalar::Signed(1),
            2 => Scalar::Unsigned(2),
            3 => Scalar::Signed(2),
            4 => Scalar::Unsigned(4),
            5 => Scalar::Signed(4),
            6 => Scalar::Float32,
            7 => Scalar::Bool,
            10 => Scalar::Unsigned(8),
            11 => Scalar::Signed(8),
            12 => Scalar::Float64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Scalar::Unsigned(size) | Scalar::Signed(size) => size,
            Scalar::Float32 => 4,
            Scalar::Float64 => 8,
            Scalar::Bool => 1,
        }
    }

    /// The value of [`Self::size`] little-endian bytes.
    fn decode(self, bytes: &[u8]) -> Value {
        let bits = bytes.iter().rev().fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
        match self {
            Scalar::Unsigned(_) => Value::Unsigned(bits),
            Scalar::Signed(size) => {
                let unused = 64 - 8 * size as u32;
                Value::Signed((bits << unused) as i64 >> unused)
            }
            Scalar::Float32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
            Scalar::Float64 => Value::Float(f64::from_bits(bits)),
            Scalar::Bool => Value::Bool(bits != 0),
        }
    }
}

/// The metadata of one file, by key.
#[derive(Debug, Clone)]
pub struct Metadata {
    name: String,
    values: HashMap<String, Value>,
    pairs: Vec<(String, Range<u64>)>,
}

impl Metadata {
    /// Reads `count` pairs of the file called `name`.
    pub(super) fn read(cursor: &mut Cursor<'_>, name: &str, count: u64) -> Result<Self> {
        // A key's length, a type and one byte.
        let count = cursor.count(count, 13, "metadata pairs")?;
        let mut values = HashMap::with_capacity(count);
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let start = cursor.position();
            let key = string(cursor, "a metadata key")?;
            let kind = cursor.u32(&key)?;
            let value = match kind {
                8 => Value::String(string(cursor, &key)?),
                9 => Value::Array(array(cursor, &key, 1)?),
                _ => {
                    let scalar = scalar(cursor, &key, kind)?;
                    let bytes = cursor.bytes(scalar.size() as u64, &key)?;
                    scalar.decode(&bytes)
                }
            };
            if values.contains_key(&key) {
                return Err(cursor.error(format!("has metadata `{key}` twice; it is damaged")));
            }
            pairs.push((key.clone(), start..cursor.position()));
            values.insert(key, value);
        }
        Ok(Self { name: name.into(), values, pairs })
    }

    /// An error about this file.
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::format(&self.name, problem)
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Keys in the file's order, and where in the file each pair is, its key included.
    pub fn pairs(&self) -> &[(String, Range<u64>)] {
        &self.pairs
    }

    /// What tensors' offsets are multiples of.
    pub fn alignment(&self) -> Result<u64> {
        Ok(self.size("general.alignment")?.unwrap_or(32) as u64)
    }

    /// The string `key`.
    ///
    /// # Errors
    /// When it is there and not a string; likewise below.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The boolean `key`.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// The size or index `key`.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a size", |value| match *value {
            Value::Unsigned(number) => usize::try_from(number).ok(),
            Value::Signed(number) => usize::try_from(number).ok(),
            _ => None,
        })
    }

    /// The token id `key`; -1 and `u32::MAX` stand for none.
    pub fn token(&self, key: &str) -> Result<Option<u32>> {
        let id = self.typed(key, "a token id", |value| match *value {
            Value::Signed(-1) => Some(u32::MAX),
            Value::Unsigned(number) => u32::try_from(number).ok(),
            Value::Signed(number) => u32::try_from(number).ok(),
            _ => None,
        })?;
        Ok(id.filter(|&id| id != u32::MAX))
    }

    /// The float `key`, rounded to f32.
    pub fn float(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a float", |value| match *value {
            Value::Float(number) => Some(number as f32),
            _ => None,
        })
    }

    /// The number of strings in `key`, if it holds strings.
    pub fn strings_len(&self, key: &str) -> Option<usize> {
        match self.values.get(key) {
            Some(Value::Array(Array::Strings(strings))) => Some(strings.len()),
            _ => None,
        }
    }

    /// The strings `key`, moved out.
    pub fn take_strings(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        match self.values.remove(key) {
            None => Ok(None),
            Some(Value::Array(Array::Strings(strings))) => Ok(Some(strings)),
            Some(_) => Err(self.wrong_type(key, "an array of strings")),
        }
    }

    /// The integers `key`.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.scalars(key, "an array of 32-bit integers", |value| match value {
            Value::Unsigned(number) => i32::try_from(number).ok(),
            Value::Signed(number) => i32::try_from(number).ok(),
            _ => None,
        })
    }

    /// The floats `key`, rounded to f32.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.scalars(key, "an array of floats", |value| match value {
            Value::Float(number) => Some(number as f32),
            _ => None,
        })
    }

    fn scalars<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl Fn(Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        self.typed(key, wanted, |value| match value {
            Value::Array(Array::Scalars(scalars)) => scalars.values().map(&convert).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.wrong_type(key, wanted))
    }

    fn wrong_type(&self, key: &str, wanted: &str) -> Error {
        self.error(format!("metadata `{key}` is not {wanted}; convert the model again"))
    }
}

/// A length and that many bytes of UTF-8.
pub(super) fn string(cursor: &mut Cursor<'_>, what: &str) -> Result<String> {
    let length = cursor.u64(what)?;
    let bytes = cursor.bytes(length, &format!("bytes of {what}"))?;
    String::from_utf8(bytes).map_err(|_| {
        cursor.error(format!(
            "{what} before byte {} is not UTF-8; the file is damaged, fetch it again",
            cursor.position()
        ))
    })
}

fn scalar(cursor: &Cursor<'_>, key: &str, kind: u32) -> Result<Scalar> {
    Scalar::of(kind).ok_or_else(|| {
        cursor.error(format!(
            "metadata `{key}` has the unknown type {kind}; the file is damaged or newer than GGUF \
             version 3"
        ))
    })
}

fn array(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<Array> {
    if depth > MAX_DEPTH {
        return Err(cursor.error(format!(
            "metadata `{key}` nests arrays deeper than {MAX_DEPTH}; the file is damaged"
        )));
    }
    let kind = cursor.u32(key)?;
    let count = cursor.u64(key)?;
    let what = format!("items of {key}");
    match kind {
        8 => {
            let count = cursor.count(count, 8, &what)?;
            (0..count).map(|_| string(cursor, key)).collect::<Result<_>>().map(Array::Strings)
        }
        9 => {
            let count = cursor.count(count, 12, &what)?;
            let arrays = (0..count).map(|_| array(cursor, key, depth + 1));
            arrays.collect::<Result<_>>().map(Array::Arrays)
        }
        _ => {
            let kind = scalar(cursor, key, kind)?;
            let count = cursor.count(count, kind.size() as u64, &what)? as u64;
            let bytes = cursor.bytes(count * kind.size() as u64, &what)?;
            Ok(Array::Scalars(Scalars { kind, bytes }))
        }
    }
}
