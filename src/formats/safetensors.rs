//! Safetensors: eight bytes of header length, a JSON header, and the tensors' bytes without gaps.

use std::collections::{HashMap, HashSet};
use std::fmt;

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorInfo as Entry;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::cursor::Cursor;
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
    pub fn parse(source: &dyn ByteSource) -> Result<Self> {
        let mut cursor = Cursor::new(source);
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
            let values = entry.shape.iter().try_fold(1_u64, |n, &s| n.checked_mul(s as u64));
            let bits = values.and_then(|values| values.checked_mul(entry.dtype.bitsize() as u64));
            let bytes = (end as u64).checked_sub(start as u64);
            if bits.is_none_or(|bits| bytes.and_then(|bytes| bytes.checked_mul(8)) != Some(bits)) {
                return Err(cursor.error(format!(
                    "tensor `{name}` at {start}..{end} is not as long as {:?} of shape {:?}; the \
                     file is damaged",
                    entry.dtype, entry.shape
                )));
            }
            tensors.push(SafetensorsTensor {
                name,
                dtype: entry.dtype,
                shape: entry.shape,
                offset: start as u64,
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
        if data + end != source.len() {
            let size = source.len();
            return Err(cursor.error(format!(
                "is {size} bytes long, but its header describes {}; it is truncated or damaged, \
                 fetch it again",
                data + end
            )));
        }
        Ok(Self { metadata: header.metadata, tensors })
    }
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
                header.metadata = map.next_value()?;
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
