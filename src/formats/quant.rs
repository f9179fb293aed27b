//! Values out of stored blocks, bit for bit what ggml's reference functions give.

use half::{bf16, f16};

use super::{DType, kquant};
use crate::{Error, Result};

/// Decodes `bytes`, whole blocks of `dtype`, into `out`.
///
/// # Errors
/// When `bytes` is not exactly as long as `out.len()` values of `dtype` are.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if dtype.byte_len(out.len() as u64) != Some(bytes.len() as u64) {
        return Err(Error::invalid(format!(
            "{} bytes are not {} values of {dtype}, which takes {} bytes per {}",
            bytes.len(),
            out.len(),
            dtype.block_bytes(),
            dtype.block_size()
        )));
    }
    match dtype {
        DType::F32 => each_block(bytes, out, |b: &[u8; 4], [v]| *v = f32::from_le_bytes(*b)),
        DType::F16 => each_block(bytes, out, |b: &[u8; 2], [v]| *v = half_at(b, 0)),
        DType::BF16 => {
            each_block(bytes, out, |b: &[u8; 2], [v]| *v = bf16::from_le_bytes(*b).to_f32());
        }
        DType::Q4_0 => each_block(bytes, out, q4_0),
        DType::Q4_1 => each_block(bytes, out, q4_1),
        DType::Q5_0 => each_block(bytes, out, q5_0),
        DType::Q5_1 => each_block(bytes, out, q5_1),
        DType::Q8_0 => each_block(bytes, out, q8_0),
        DType::Q2_K => each_block(bytes, out, kquant::q2_k),
        DType::Q3_K => each_block(bytes, out, kquant::q3_k),
        DType::Q4_K => each_block(bytes, out, kquant::q4_k),
        DType::Q5_K => each_block(bytes, out, kquant::q5_k),
        DType::Q6_K => each_block(bytes, out, kquant::q6_k),
    }
    Ok(())
}

fn each_block<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        decode(block, values);
    }
}

/// The f16 at byte `at` of a block.
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (i, &byte) in block[2..].iter().enumerate() {
        out[i] = scale * ((byte & 15) as f32 - 8.0);
        out[i + 16] = scale * ((byte >> 4) as f32 - 8.0);
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    for (i, &byte) in block[4..].iter().enumerate() {
        out[i] = scale * (byte & 15) as f32 + min;
        out[i + 16] = scale * (byte >> 4) as f32 + min;
    }
}

/// The 5-bit quants: low nibbles as in Q4, the fifth bit of value `i` is bit `i` of `high`.
fn five_bits(high: &[u8], nibbles: &[u8], mut set: impl FnMut(usize, f32)) {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    let fifth = |i: usize| ((high >> i & 1) << 4) as u8;
    for (i, &byte) in nibbles.iter().enumerate() {
        set(i, (byte & 15 | fifth(i)) as f32);
        set(i + 16, (byte >> 4 | fifth(i + 16)) as f32);
    }
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    five_bits(&block[2..6], &block[6..], |i, q| out[i] = scale * (q - 16.0));
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    five_bits(&block[4..8], &block[8..], |i, q| out[i] = scale * q + min);
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (value, &byte) in out.iter_mut().zip(&block[2..]) {
        *value = scale * (byte as i8) as f32;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::test;
    use serde_json::Value;

    /// Written by `scripts/goldens/quants.py` with the `gguf` package.
    pub(in crate::formats) fn goldens() -> Value {
        serde_json::from_str(include_str!("../../data/goldens/quants.json")).expect("JSON")
    }

    pub(in crate::formats) fn hex(value: &Value) -> Vec<u8> {
        let text = value.as_str().expect("a hex string");
        let digits = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digits).collect()
    }

    pub(in crate::formats) fn floats(value: &Value) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&hex(value))
    }

    #[test]
    fn every_type_decodes_bit_for_bit_as_ggml() {
        let goldens = goldens();
        for dtype in DType::ALL {
            let golden = &goldens["dequantize"][dtype.name()];
            let expected = floats(&golden["values"]);
            assert!(expected.len() >= 2 * dtype.block_size(), "{dtype}");
            let mut out = vec![f32::NAN; expected.len()];
            dequantize(dtype, &hex(&golden["bytes"]), &mut out).expect("whole blocks");
            for (i, (actual, expected)) in out.iter().zip(&expected).enumerate() {
                assert_eq!(actual.to_bits(), expected.to_bits(), "{dtype}[{i}]");
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        for dtype in DType::ALL {
            let mut out = vec![0.0; dtype.block_size()];
            let short = vec![0; dtype.block_bytes() - 1];
            let error = dequantize(dtype, &short, &mut out).unwrap_err().to_string();
            assert!(error.contains(dtype.name()), "{error}");
        }
    }
}
