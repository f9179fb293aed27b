//! Safetensors: eight bytes of header length, a JSON header, and the tensors' bytes without gaps.

use std::collections::{HashMap, HashSet};
use std::fmt;

use ::safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::cursor::{self, Cursor};
use super::{ByteSource, DType};
use crate::{Error, Result};

/// The longest header that is read; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// The header of a safetensors file, checked against the file's size.
#[derive(Debug, Clone)]
pub struct Safetensors {
    /// `__metadata__`, such as `format: pt`.
    pub metadata: HashMap<String, String>,
    /// The tensors in the order of their bytes.
    pub tensors: Vec<SafetensorsTensor>,
}

/// Where a tensor of a safetensors file lies.
#[derive(Debug, Clone)]
pub struct SafetensorsTensor {
    /// Its name.
    pub name: String,
    /// How its values are stored; perhaps in a way the library does not read.
    pub dtype: Dtype,
    /// Its shape, the last axis contiguous.
    pub shape: Vec<usize>,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl SafetensorsTensor {
    /// [`Self::dtype`] as a type the library reads.
    ///
    /// # Errors
    /// When it is not one; `name` is the file.
    pub fn float_dtype(&self, name: &str) -> Result<DType> {
        DType::from_safetensors(self.dtype).ok_or_else(|| {
            Error::format(
                name,
                format!(
                    "tensor `{}` has type {:?}; supported: F32, F16, BF16",
                    self.name, self.dtype
                ),
            )
        })
    }
}

impl Safetensors {
    /// Reads the header of `source`, and nothing of the tensors.
    ///
    /// # Errors
    /// When it is not safetensors, truncated or damaged: a length beyond the file, a tensor whose
    /// bytes are not its shape's, overlaps, gaps, or names that repeat.
    pub async fn parse(source: &dyn ByteSource) -> Result<Self> {
        cursor::read_header(source, Self::parse_header).await
    }

    fn parse_header(cursor: &mut Cursor<'_>) -> Result<Self> {
        let length = cursor.u64("bytes of the header's length")?;
        if length > MAX_HEADER {
            return Err(cursor.error(format!(
                "is not a safetensors file: its header would be {length} bytes long"
            )));
        }
        let json = cursor.bytes(length, "bytes of the header")?;
        let header: Header = serde_json::from_slice(&json).map_err(|error| {
            cursor.error(format!("has a damaged safetensors header: {error}; fetch it again"))
        })?;
        let data = cursor.position();
        let mut tensors = Vec::with_capacity(header.entries.len());
        for (name, entry) in header.entries {
            let (start, end) = entry.data_offsets;
            let values = entry.shape.iter().try_fold(1_u64, |n, &size| n.checked_mul(size));
            let bits = values.and_then(|values| values.checked_mul(entry.dtype.bitsize() as u64));
            let bytes = end.checked_sub(start);
            if bits.is_none_or(|bits| bytes.and_then(|bytes| bytes.checked_mul(8)) != Some(bits)) {
                return Err(cursor.error(format!(
                    "tensor `{name}` at {start}..{end} is not as long as {:?} of shape {:?}; the \
                     file is damaged",
                    entry.dtype, entry.shape
                )));
            }
            let shape = entry.shape.iter().map(|&size| usize::try_from(size)).collect();
            let Ok(shape) = shape else {
                return Err(cursor.error(format!(
                    "tensor `{name}` has shape {:?}, which no memory here could hold",
                    entry.shape
                )));
            };
            tensors.push(SafetensorsTensor {
                name,
                dtype: entry.dtype,
                shape,
                offset: start,
                bytes: bytes.unwrap_or(0),
            });
        }
        tensors.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
        let mut end = 0;
        for tensor in &mut tensors {
            if tensor.offset != end {
                return Err(cursor.error(format!(
                    "tensor `{}` starts at {}, not where the one before it ends, at {end}; the \
                     file is damaged",
                    tensor.name, tensor.offset
                )));
            }
            // Both are below 2^61, since their bits were counted.
            end += tensor.bytes;
            tensor.offset += data;
        }
        let size = cursor.file_size();
        if data + end != size {
            return Err(cursor.error(format!(
                "is {size} bytes long, but its header describes {}; it is truncated or damaged, \
                 fetch it again",
                data + end
            )));
        }
        Ok(Self { metadata: header.metadata, tensors })
    }
}

/// A tensor as the header describes it. In a page, where a `usize` has 32 bits, a file may still
/// be longer than that counts.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The JSON header, in its own order.
#[derive(Default)]
struct Header {
    metadata: HashMap<String, String>,
    entries: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Unlike a map, names a tensor that repeats and the tensor whose entry is malformed.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` twice")));
            }
            if name == "__metadata__" {
                // MLX writes null for none.
                header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
            } else {
                let entry = map
                    .next_value()
                    .map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
                header.entries.push((name, entry));
            }
        }
        Ok(header)
    }
}

/// `model.safetensors.index.json`: which file holds which tensor.
#[derive(serde::Deserialize)]
pub(super) struct Index {
    /// File by tensor.
    pub(super) weight_map: HashMap<String, String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::Bytes;
    use crate::formats::testing::TinyLlama;
    use crate::testing::test;

    fn parse(bytes: Vec<u8>) -> Result<Safetensors> {
        pollster::block_on(Safetensors::parse(&Bytes::new("model.safetensors", bytes)))
    }

    fn problem(bytes: Vec<u8>) -> String {
        let problem = parse(bytes).expect_err("malformed").to_string();
        let one_line = problem.starts_with("model.safetensors: ") && !problem.contains('\n');
        assert!(one_line, "{problem}");
        problem
    }

    fn file(header: &str, data: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [length.to_vec(), header.as_bytes().to_vec(), vec![0; data]].concat()
    }

    #[test]
    fn places_every_tensor() {
        let bytes = TinyLlama::default().safetensors(0, 1);
        let expected = ::safetensors::SafeTensors::deserialize(&bytes).expect("valid");
        let parsed = parse(bytes.clone()).expect("valid");
        assert_eq!(parsed.tensors.len(), expected.len());
        for tensor in parsed.tensors {
            let view = expected.tensor(&tensor.name).expect("there");
            let range = tensor.offset as usize..(tensor.offset + tensor.bytes) as usize;
            assert_eq!((&tensor.shape[..], &bytes[range]), (view.shape(), view.data()));
        }
    }

    #[test]
    fn metadata_is_kept() {
        let parsed = parse(file(r#"{"__metadata__":{"format":"pt"}}"#, 0)).expect("valid");
        assert_eq!(parsed.metadata["format"], "pt");
        let parsed = parse(file(r#"{"__metadata__":null}"#, 0)).expect("as MLX writes it");
        assert!(parsed.metadata.is_empty());
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = TinyLlama::default().safetensors(0, 1);
        for cut in (0..3000).chain((3000..bytes.len()).step_by(997)) {
            let problem = problem(bytes[..cut].to_vec());
            assert!(problem.contains("truncated"), "{problem}");
        }
    }

    #[test]
    fn every_kind_of_damage_is_named() {
        let f32s = |offsets: &str| {
            format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#)
        };
        let two = |first: &str, second: &str, offsets: &str| {
            format!(
                r#"{{"{first}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},
                "{second}":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}}}"#
            )
        };
        for (bytes, named) in [
            (vec![0xff; 64], "is not a safetensors file"),
            (99_000_000_u64.to_le_bytes().to_vec(), "ends at byte 8, before"),
            (file("[]", 0), "an object of tensors"),
            (file(&f32s("[0,8]").replace("F32", "F31"), 8), "tensor `a`: unknown variant"),
            (file(&f32s("[0,8]").replace(":[2]", ":[3]"), 8), "not as long as F32 of shape [3]"),
            (file(&f32s("[8,0]"), 8), "tensor `a` at 8..0"),
            (file(&f32s("[4,12]"), 12), "`a` starts at 4"),
            (file(&f32s("[0,8]"), 7), "truncated or damaged"),
            (file(&f32s("[0,8]"), 9), "truncated or damaged"),
            (file(&f32s("[0,-8]"), 8), "tensor `a`: invalid value"),
            (file(&f32s("[0,8]").replace("[2]", "[4294967296,4294967296,2]"), 8), "not as long as"),
            (file(&two("a", "b", "[2,6]"), 6), "tensor `b` starts at 2"),
            (file(&two("a", "b", "[6,10]"), 10), "tensor `b` starts at 6"),
            (file(&two("a", "a", "[4,8]"), 8), "`a` twice"),
        ] {
            let problem = problem(bytes);
            assert!(problem.contains(named), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(bytes.clone());
            let _ = parse([(bytes.len() as u64).to_le_bytes().to_vec(), bytes].concat());
        }

        #[test]
        fn no_damage_panics(damage in prop::collection::vec((0..3000_usize, any::<u8>()), 1..4)) {
            let mut bytes = TinyLlama::default().safetensors(0, 1);
            for (at, value) in damage {
                bytes[at] = value;
            }
            let size = bytes.len() as u64;
            if let Ok(parsed) = parse(bytes) {
                for tensor in parsed.tensors {
                    prop_assert!(tensor.offset + tensor.bytes <= size);
                }
            }
        }
    }
}
