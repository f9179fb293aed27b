//! GGUF, versions 2 and 3, little-endian: a header of metadata and tensor descriptions, then the
//! tensors' bytes. The format is ggml's `docs/gguf.md`.

use std::collections::HashSet;

use super::cursor::Cursor;
use super::metadata::{Metadata, string};
use super::{ByteSource, DType};
use crate::Result;

/// The header of a GGUF file, checked against the file's size.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The key–value part.
    pub metadata: Metadata,
    /// The tensors in the file's order, with GGUF's names.
    pub tensors: Vec<GgufTensor>,
}

/// Where a tensor of a GGUF file lies.
#[derive(Debug, Clone)]
pub struct GgufTensor {
    /// GGUF's name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How its values are stored.
    pub dtype: DType,
    /// Its shape with the contiguous axis last (`[out, in]`), the reverse of the file's order.
    pub shape: Vec<usize>,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Gguf {
    /// Reads the header of `source`, and nothing of the tensors.
    ///
    /// # Errors
    /// When it is not GGUF, truncated or damaged, or has a tensor of a type that is not in
    /// [`DType`]. No length in the file is trusted: memory stays within a small multiple of the
    /// header's size.
    pub fn parse(source: &dyn ByteSource) -> Result<Self> {
        let mut cursor = Cursor::new(source);
        let magic: [u8; 4] = cursor.array("bytes of the GGUF magic")?;
        if &magic != b"GGUF" {
            return Err(cursor.error("is not a GGUF file: it does not start with `GGUF`"));
        }
        match cursor.u32("bytes of the version")? {
            2 | 3 => {}
            version if version.swap_bytes() == 2 || version.swap_bytes() == 3 => {
                return Err(cursor.error("is a big-endian GGUF; convert it to little-endian"));
            }
            version => {
                return Err(cursor.error(format!(
                    "is GGUF version {version}; versions 2 and 3 are supported, convert the model \
                     again"
                )));
            }
        }
        let tensor_count = cursor.u64("bytes of the tensor count")?;
        let pair_count = cursor.u64("bytes of the metadata count")?;
        let metadata = Metadata::read(&mut cursor, source.name(), pair_count)?;
        let tensors = tensors(&mut cursor, source.len(), &metadata, tensor_count)?;
        Ok(Self { metadata, tensors })
    }
}

/// Reads the tensor descriptions and places them in the file.
fn tensors(
    cursor: &mut Cursor<'_>,
    file_size: u64,
    metadata: &Metadata,
    count: u64,
) -> Result<Vec<GgufTensor>> {
    // A name's length, the number of axes, a type and an offset.
    let count = cursor.count(count, 24, "tensor descriptions")?;
    let alignment = metadata.size("general.alignment")?.unwrap_or(32) as u64;
    if !alignment.is_power_of_two() {
        return Err(cursor.error(format!(
            "general.alignment is {alignment}, not a power of two; the file is damaged"
        )));
    }
    let mut names = HashSet::with_capacity(count);
    let mut tensors = Vec::with_capacity(count);
    for _ in 0..count {
        let tensor = tensor(cursor, alignment)?;
        if !names.insert(tensor.name.clone()) {
            return Err(cursor.error(format!("has tensor `{}` twice; it is damaged", tensor.name)));
        }
        tensors.push(tensor);
    }
    // Offsets count from the first aligned byte after the header.
    let data = cursor.position().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    for tensor in &mut tensors {
        let end = data.checked_add(tensor.offset).and_then(|start| {
            tensor.offset = start;
            start.checked_add(tensor.bytes)
        });
        if end.is_none_or(|end| end > file_size) {
            return Err(cursor.error(format!(
                "ends at byte {file_size}, before the {} bytes of tensor `{}` at byte {}; it is \
                 truncated, fetch it again",
                tensor.bytes, tensor.name, tensor.offset
            )));
        }
    }
    let mut order: Vec<&GgufTensor> = tensors.iter().filter(|tensor| tensor.bytes > 0).collect();
    order.sort_by_key(|tensor| tensor.offset);
    if let Some([first, second]) =
        order.array_windows().find(|[a, b]| a.offset + a.bytes > b.offset)
    {
        return Err(cursor.error(format!(
            "tensors `{}` and `{}` overlap; the file is damaged, fetch it again",
            first.name, second.name
        )));
    }
    Ok(tensors)
}

/// One description; its offset is still relative.
fn tensor(cursor: &mut Cursor<'_>, alignment: u64) -> Result<GgufTensor> {
    let name = string(cursor, "a tensor's name")?;
    let axes = cursor.u32(&name)?;
    if axes > 4 {
        return Err(cursor.error(format!("tensor `{name}` has {axes} axes; GGUF allows 4")));
    }
    let mut shape = Vec::with_capacity(axes as usize);
    for _ in 0..axes {
        shape.push(cursor.u64(&name)?);
    }
    let id = cursor.u32(&name)?;
    let Some(dtype) = DType::from_ggml(id) else {
        return Err(cursor.error(format!(
            "tensor `{name}` has type {}, which is not supported; take a file of type {}",
            ggml_name(id),
            DType::ALL.map(DType::name).join(", ")
        )));
    };
    let row = shape.first().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block_size() as u64) {
        return Err(cursor.error(format!(
            "tensor `{name}` has rows of {row} values, not whole {dtype} blocks of {}",
            dtype.block_size()
        )));
    }
    // As usize, so that a 32-bit target refuses what it can't address.
    let sizes = shape.iter().rev().map(|&size| usize::try_from(size).ok());
    let values = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
    let bytes = values.and_then(|values| dtype.byte_len(values));
    let (Some(sizes), Some(bytes)) = (sizes.collect::<Option<Vec<_>>>(), bytes) else {
        return Err(cursor.error(format!(
            "tensor `{name}` has the impossible shape {shape:?}; the file is damaged"
        )));
    };
    let offset = cursor.u64(&name)?;
    if !offset.is_multiple_of(alignment) {
        return Err(cursor.error(format!(
            "tensor `{name}` starts at {offset}, not a multiple of the alignment {alignment}; the \
             file is damaged"
        )));
    }
    Ok(GgufTensor { name, dtype, shape: sizes, offset, bytes })
}

/// Names of the types people meet and the library does not read (`enum ggml_type`).
fn ggml_name(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("number {id}"),
    };
    name.into()
}
