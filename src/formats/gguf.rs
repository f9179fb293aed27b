//! GGUF, versions 2 and 3, little-endian: a header of metadata and tensor descriptions, then the
//! tensors' bytes. The format is ggml's `docs/gguf.md`.

use std::collections::HashSet;

use super::cursor::{self, Cursor};
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
    pub async fn parse(source: &dyn ByteSource) -> Result<Self> {
        cursor::read_header(source, Self::parse_header).await
    }

    fn parse_header(cursor: &mut Cursor<'_>) -> Result<Self> {
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
        let metadata = Metadata::read(cursor, cursor.name(), pair_count)?;
        let tensors = tensors(cursor, cursor.file_size(), &metadata, tensor_count)?;
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
    let alignment = metadata.alignment()?;
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
    let mut order: Vec<&GgufTensor> = tensors.iter().collect();
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
    // As usize, so that a 32-bit target refuses what it can't address; never empty, so that no
    // product of some axes is larger than that of all.
    let sizes = shape.iter().rev().map(|&size| usize::try_from(size).ok().filter(|&n| n > 0));
    let values = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
    let bytes = values.and_then(|values| dtype.byte_len(values));
    let bytes = bytes.filter(|&bytes| usize::try_from(bytes).is_ok());
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

#[cfg(test)]
mod tests {
    // What is in memory is read without waiting, which a page may do too.
    use pollster::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::formats::testing::{GgufFile, TinyLlama, array_head};
    use crate::formats::{Bytes, Checkpoint};
    use crate::testing::test;

    fn tiny() -> GgufFile {
        TinyLlama::default().gguf()
    }

    fn parse(bytes: Vec<u8>) -> Result<Gguf> {
        block_on(Gguf::parse(&Bytes::new("model.gguf", bytes)))
    }

    fn problem(bytes: Vec<u8>) -> String {
        let problem = parse(bytes).expect_err("malformed").to_string();
        assert!(problem.starts_with("model.gguf: ") && !problem.contains('\n'), "{problem}");
        problem
    }

    #[test]
    fn places_every_tensor() {
        let file = tiny();
        let bytes = file.bytes();
        let gguf = parse(bytes.clone()).expect("valid");
        assert_eq!(gguf.tensors.len(), file.tensors.len());
        for (found, written) in gguf.tensors.iter().zip(&file.tensors) {
            let range = found.offset as usize..(found.offset + found.bytes) as usize;
            assert_eq!((&found.name, &bytes[range]), (&written.name, &written.data[..]));
        }
    }

    #[test]
    fn reads_version_2_and_every_kind_of_value() {
        let mut file = tiny();
        file.set("u8", 0, vec![200]);
        file.set("i8", 1, vec![0x80]);
        file.set("i16", 3, (-3_i16).to_le_bytes().to_vec());
        file.set("u64", 10, u64::MAX.to_le_bytes().to_vec());
        file.set("i64", 11, i64::MIN.to_le_bytes().to_vec());
        file.set("f64", 12, 0.1_f64.to_le_bytes().to_vec());
        file.set("bools", 9, [array_head(7, 2), vec![1, 0]].concat());
        let inner = [array_head(0, 1), vec![9]].concat();
        file.set("nested", 9, [array_head(9, 1), inner].concat());
        let mut bytes = file.bytes();
        bytes[4] = 2;
        let metadata = parse(bytes).expect("valid").metadata;
        use crate::formats::{Array, Value};
        for (key, expected) in [
            ("u8", Value::Unsigned(200)),
            ("i8", Value::Signed(-128)),
            ("i16", Value::Signed(-3)),
            ("u64", Value::Unsigned(u64::MAX)),
            ("i64", Value::Signed(i64::MIN)),
            ("f64", Value::Float(0.1)),
        ] {
            assert_eq!(metadata.get(key), Some(&expected), "{key}");
        }
        let Some(Value::Array(Array::Scalars(flags))) = metadata.get("bools") else { panic!() };
        assert!(flags.values().eq([Value::Bool(true), Value::Bool(false)]));
        let Some(Value::Array(Array::Arrays(arrays))) = metadata.get("nested") else { panic!() };
        assert_eq!(arrays.len(), 1);
    }

    #[test]
    fn a_file_cut_anywhere_is_truncated() {
        let bytes = tiny().bytes();
        for cut in (0..2500).chain((2500..bytes.len()).step_by(997)) {
            let problem = problem(bytes[..cut].to_vec());
            assert!(problem.contains(&format!("ends at byte {cut}, before")), "{problem}");
        }
    }

    #[test]
    fn headers_of_other_files_are_refused() {
        let valid = tiny().bytes();
        for (at, value, named) in
            [(0, b'g', "is not a GGUF file"), (4, 1, "version 1"), (4, 4, "version 4")]
        {
            let mut bytes = valid.clone();
            bytes[at] = value;
            assert!(problem(bytes).contains(named));
        }
        let mut bytes = valid;
        bytes[4..8].copy_from_slice(&3_u32.to_be_bytes());
        assert!(problem(bytes).contains("big-endian"));
    }

    #[test]
    fn hostile_lengths_are_found_before_anything_is_allocated() {
        let huge = [u64::MAX, 1 << 61, 1 << 40].map(u64::to_le_bytes);
        for length in huge {
            // The counts of tensors and pairs, and the length of the first key.
            for at in [8, 16, 24] {
                let mut bytes = tiny().bytes();
                bytes[at..at + 8].copy_from_slice(&length);
                assert!(problem(bytes).contains("truncated or damaged"));
            }
            for kind in [0_u32, 8, 9, 10] {
                let mut file = tiny();
                file.set("list", 9, [kind.to_le_bytes().to_vec(), length.to_vec()].concat());
                assert!(problem(file.bytes()).contains("items of list"));
            }
            let mut file = tiny();
            file.set("text", 8, length.to_vec());
            assert!(problem(file.bytes()).contains("bytes of text"));
            let mut file = tiny();
            file.tensors[0].dims[1] = u64::from_le_bytes(length);
            assert!(problem(file.bytes()).contains("token_embd.weight"));
        }
    }

    #[test]
    fn a_damaged_tensor_is_named() {
        type Damage = fn(&mut GgufFile);
        let cases: [(Damage, &str); 9] = [
            (|file| file.tensors[1].dims = vec![0, 1 << 40, 1 << 40], "impossible shape"),
            (|file| file.tensors[1].kind = 23, "`output_norm.weight` has type IQ4_XS"),
            (|file| file.tensors[1].kind = 77, "`output_norm.weight` has type number 77"),
            (|file| file.tensors[1].kind = 12, "not whole Q4_K blocks of 256"),
            (|file| file.tensors[1].dims = vec![1; 5], "`output_norm.weight` has 5 axes"),
            (|file| file.tensors[1].offset = Some(8), "not a multiple of the alignment"),
            (|file| file.tensors[1].offset = Some(32), "overlap"),
            (|file| file.tensors[1].offset = Some(1 << 40), "truncated"),
            (|file| file.tensors[1].name = "token_embd.weight".into(), "twice"),
        ];
        for (damage, named) in cases {
            let mut file = tiny();
            damage(&mut file);
            let problem = problem(file.bytes());
            assert!(problem.contains(named), "{problem}");
        }
    }

    #[test]
    fn damaged_metadata_is_named() {
        let mut file = tiny();
        file.set("list", 9, array_head(9, 1).repeat(6));
        assert!(problem(file.bytes()).contains("nests arrays deeper"));
        let mut file = tiny();
        file.set("odd", 13, vec![0]);
        assert!(problem(file.bytes()).contains("`odd` has the unknown type 13"));
        let mut file = tiny();
        file.pairs.push(file.pairs[0].clone());
        assert!(problem(file.bytes()).contains("`general.architecture` twice"));
        for alignment in [0, 48] {
            let mut file = tiny();
            file.set_u32("general.alignment", alignment);
            assert!(problem(file.bytes()).contains("not a power of two"));
        }
        let mut file = tiny();
        file.set("text", 8, [1_u64.to_le_bytes().to_vec(), vec![0xff]].concat());
        assert!(problem(file.bytes()).contains("not UTF-8"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse([b"GGUF\x03\0\0\0".to_vec(), bytes].concat());
        }

        #[test]
        fn no_damage_panics(damage in prop::collection::vec((0..3000_usize, any::<u8>()), 1..4)) {
            let mut bytes = tiny().bytes();
            for (at, value) in damage {
                bytes[at] = value;
            }
            let source = Box::new(Bytes::new("model.gguf", bytes));
            let Ok(checkpoint) = block_on(Checkpoint::from_gguf(source)) else { return Ok(()) };
            let mut out = Vec::new();
            for name in checkpoint.tensor_names() {
                block_on(checkpoint.read_rows(name, 0..1, &mut out)).expect("the range was checked");
            }
        }
    }
}
