//! The header of a GGUF file of version 3, for whoever writes the tensors' bytes after it.

use super::DType;
use crate::{Error, Result};

/// Metadata as the file has it: pairs one after another.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    keys: Vec<String>,
    bytes: Vec<u8>,
}

impl Pairs {
    /// Adds a number of 32 bits (`uint32`).
    pub fn u32(&mut self, key: &str, value: u32) {
        self.push(key, 4, &value.to_le_bytes());
    }

    /// Adds a `float32`.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.push(key, 6, &value.to_le_bytes());
    }

    /// Adds a `bool`.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.push(key, 7, &[value.into()]);
    }

    /// Adds a `string`.
    pub fn string(&mut self, key: &str, value: &str) {
        self.push(key, 8, &string(value));
    }

    /// Adds an array of strings.
    pub fn strings(&mut self, key: &str, values: &[String]) {
        self.array(key, 8, values.len(), values.iter().flat_map(|value| string(value)));
    }

    /// Adds an array of `int32`.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, 5, values.len(), values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds an array of `float32`.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        self.array(key, 6, values.len(), values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds a pair of another file: `pair` is its bytes, key and all.
    pub fn copied(&mut self, key: &str, pair: &[u8]) {
        self.keys.push(key.to_owned());
        self.bytes.extend(pair);
    }

    fn array(&mut self, key: &str, kind: u32, count: usize, items: impl Iterator<Item = u8>) {
        let head = [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        let value: Vec<u8> = head.into_iter().chain(items).collect();
        self.push(key, 9, &value);
    }

    fn push(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.keys.push(key.to_owned());
        self.bytes.extend(string(key));
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }
}

/// A tensor that a header announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Its name in the file.
    pub name: String,
    /// How its values are stored.
    pub dtype: DType,
    /// Its shape, the contiguous axis last.
    pub shape: Vec<usize>,
}

impl Announced {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Rows that are not whole blocks, or more bytes than can be counted.
    pub fn bytes(&self) -> Result<u64> {
        let row = self.shape.last().copied().unwrap_or(1);
        let values = self.shape.iter().try_fold(1_u64, |n, &size| n.checked_mul(size as u64));
        let whole = row.is_multiple_of(self.dtype.block_size());
        values.filter(|_| whole).and_then(|values| self.dtype.byte_len(values)).ok_or_else(|| {
            let Self { name, dtype, shape } = self;
            Error::invalid(format!("tensor `{name}` {shape:?} can't be stored as {dtype}"))
        })
    }
}

/// The bytes of a GGUF file before its first tensor. Every tensor follows in order, filled up with
/// zeros to a multiple of `alignment`, a power of two that `pairs` names unless it is 32.
///
/// # Errors
/// A tensor that can't be stored so, or a name or key that is there twice.
pub fn gguf_header(pairs: &Pairs, tensors: &[Announced], alignment: u64) -> Result<Vec<u8>> {
    for names in [pairs.keys.clone(), tensors.iter().map(|t| t.name.clone()).collect()] {
        let mut sorted = names;
        sorted.sort();
        if let Some([name, _]) = sorted.array_windows().find(|[a, b]| a == b) {
            return Err(Error::invalid(format!("`{name}` would be twice in the file")));
        }
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.keys.len() as u64).to_le_bytes());
    out.extend(&pairs.bytes);
    let mut offset = 0_u64;
    for tensor in tensors {
        out.extend(string(&tensor.name));
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        out.extend(tensor.shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
        out.extend(tensor.dtype.ggml().to_le_bytes());
        out.extend(offset.to_le_bytes());
        let end = offset.checked_add(tensor.bytes()?);
        offset = end
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .ok_or_else(|| Error::invalid("the file would have more bytes than can be counted"))?;
    }
    out.resize(out.len().next_multiple_of(alignment as usize), 0);
    Ok(out)
}

/// A length and that many bytes.
fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{Bytes, Gguf, Value};
    use crate::testing::test;

    fn tensor(name: &str, dtype: DType, shape: &[usize]) -> Announced {
        Announced { name: name.into(), dtype, shape: shape.to_vec() }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut pairs = Pairs::default();
        pairs.u32("a", 7);
        pairs.f32("b", 0.5);
        pairs.bool("c", true);
        pairs.string("d", "déjà");
        pairs.strings("e", &["x".into(), String::new()]);
        pairs.i32s("f", &[-1, 2]);
        pairs.f32s("g", &[1.5]);
        pairs.u32("general.alignment", 64);
        let tensors = [
            tensor("one", DType::F16, &[3]),
            tensor("two", DType::Q4_1, &[2, 64]),
            tensor("three", DType::F32, &[]),
        ];
        let mut file = gguf_header(&pairs, &tensors, 64).unwrap();
        assert!(file.len().is_multiple_of(64));
        let data = file.len() as u64;
        file.resize(file.len() + 3 * 128, 0);
        let gguf = pollster::block_on(Gguf::parse(&Bytes::new("m", file))).unwrap();
        let metadata = &gguf.metadata;
        for (key, value) in [
            ("a", Value::Unsigned(7)),
            ("b", Value::Float(0.5)),
            ("c", Value::Bool(true)),
            ("d", Value::String("déjà".into())),
        ] {
            assert_eq!(metadata.get(key), Some(&value));
        }
        assert_eq!(metadata.strings_len("e"), Some(2));
        assert_eq!(metadata.i32s("f").unwrap(), Some(vec![-1, 2]));
        assert_eq!(metadata.f32s("g").unwrap(), Some(vec![1.5]));
        let places: Vec<(u64, u64)> =
            gguf.tensors.iter().map(|tensor| (tensor.offset - data, tensor.bytes)).collect();
        assert_eq!(places, [(0, 6), (64, 80), (192, 4)]);
        for (found, tensor) in gguf.tensors.iter().zip(tensors) {
            assert_eq!((&found.name, found.dtype), (&tensor.name, tensor.dtype));
            assert_eq!(found.shape, tensor.shape);
        }
    }

    #[test]
    fn what_no_file_could_hold_is_named() {
        let problem = |pairs: &Pairs, tensors: &[Announced]| {
            gguf_header(pairs, tensors, 32).unwrap_err().to_string()
        };
        let none = Pairs::default();
        let mut twice = Pairs::default();
        twice.u32("a", 1);
        twice.bool("a", true);
        let huge = tensor("huge", DType::F32, &[1 << 31, 1 << 31]);
        for (problem, named) in [
            (problem(&twice, &[]), "`a` would be twice"),
            (
                problem(&none, &[tensor("t", DType::F32, &[1]), tensor("t", DType::F32, &[1])]),
                "`t`",
            ),
            (problem(&none, &[tensor("t", DType::Q8_0, &[32, 33])]), "`t` [32, 33] can't be"),
            (
                problem(&none, &[tensor("t", DType::F16, &[usize::MAX, usize::MAX, 2])]),
                "can't be stored as F16",
            ),
            (problem(&none, &[huge]), "can't be stored as F32"),
        ] {
            assert!(problem.contains(named), "{problem}");
        }
    }
}
