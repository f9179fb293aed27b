//! The header of a safetensors file, for whoever writes the tensors' bytes after it.

use serde_json::{Map, json};

use super::{Announced, DType};
use crate::{Error, Result};

/// The bytes of a safetensors file before its first tensor; every tensor follows in order, without
/// gaps. Its metadata says that it is PyTorch's, as transformers asks.
///
/// # Errors
/// A tensor of a type that safetensors does not have, or a name that is there twice.
pub fn safetensors_header(tensors: &[Announced]) -> Result<Vec<u8>> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut start = 0_u64;
    for tensor in tensors {
        let Announced { name, dtype, shape } = tensor;
        let dtype = match dtype {
            DType::F32 | DType::F16 | DType::BF16 => dtype.name(),
            _ => {
                return Err(Error::invalid(format!("safetensors has no {dtype}; take F16 or F32")));
            }
        };
        let end = start
            .checked_add(tensor.bytes()?)
            .ok_or_else(|| Error::invalid("the file would have more bytes than can be counted"))?;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        if header.insert(name.clone(), entry).is_some() {
            return Err(Error::invalid(format!("`{name}` would be twice in the file")));
        }
        start = end;
    }
    let mut json =
        serde_json::to_vec(&header).map_err(|error| Error::invalid(error.to_string()))?;
    // So that the tensors are aligned.
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}
