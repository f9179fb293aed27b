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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{Bytes, Safetensors};
    use crate::testing::test;

    fn tensor(name: &str, dtype: DType, shape: &[usize]) -> Announced {
        Announced { name: name.into(), dtype, shape: shape.to_vec() }
    }

    #[test]
    fn what_is_written_is_read() {
        let tensors = [
            tensor("z", DType::BF16, &[3]),
            tensor("a", DType::F32, &[2, 5]),
            tensor("m", DType::F16, &[]),
        ];
        let mut file = safetensors_header(&tensors).unwrap();
        assert!(file.len().is_multiple_of(8));
        let data = file.len() as u64;
        file.resize(file.len() + 6 + 40 + 2, 0);
        let found = pollster::block_on(Safetensors::parse(&Bytes::new("m", file))).unwrap();
        assert_eq!(found.metadata["format"], "pt");
        for ((found, tensor), at) in found.tensors.iter().zip(tensors).zip([0, 6, 46]) {
            assert_eq!((&found.name, &found.shape), (&tensor.name, &tensor.shape));
            assert_eq!(found.float_dtype("").unwrap(), tensor.dtype);
            assert_eq!(found.offset, data + at);
        }
    }

    #[test]
    fn what_no_file_could_hold_is_named() {
        for (tensors, named) in [
            (vec![tensor("t", DType::Q4_0, &[32])], "has no Q4_0"),
            (vec![tensor("t", DType::F32, &[1]); 2], "`t` would be twice"),
            (vec![tensor("__metadata__", DType::F32, &[1])], "`__metadata__` would be twice"),
            (vec![tensor("t", DType::F32, &[usize::MAX, usize::MAX])], "can't be stored"),
        ] {
            let problem = safetensors_header(&tensors).unwrap_err().to_string();
            assert!(problem.contains(named), "{problem}");
        }
    }
}
