//! Values into stored blocks, as ggml's reference functions (`quantize_row_…_ref`) encode them.

use half::{bf16, f16};

use super::DType;
use crate::{Error, Result};

/// Whether [`quantize`] writes `dtype`: the K-quants are only read.
pub const fn is_writable(dtype: DType) -> bool {
    dtype.block_size() <= 32
}

/// Encodes `values`, whole blocks of `dtype`: floats to the nearest, ties to even, and blocks bit
/// for bit as ggml does without an importance matrix.
///
/// # Errors
/// When the values are not whole blocks, one is not finite or too large for the type or its f16
/// scales, or the type is not [writable](is_writable).
pub fn quantize(dtype: DType, values: &[f32]) -> Result<Vec<u8>> {
    let Some(bytes) = dtype.byte_len(values.len() as u64) else {
        return Err(Error::invalid(format!(
            "{} values are not whole blocks of {}, as {dtype} needs",
            values.len(),
            dtype.block_size()
        )));
    };
    let mut out = Vec::with_capacity(bytes as usize);
    let fits = match dtype {
        DType::F32 => each_block(values, &mut out, |[v]| Some(v.to_le_bytes())),
        DType::F16 => each_block(values, &mut out, |&[v]| half(v)),
        DType::BF16 => each_block(values, &mut out, |&[v]| {
            let rounded = bf16::from_f32(v);
            rounded.is_finite().then_some(rounded.to_le_bytes())
        }),
        DType::Q4_0 => each_block(values, &mut out, q4_0),
        DType::Q4_1 => each_block(values, &mut out, q4_1),
        DType::Q5_0 => each_block(values, &mut out, q5_0),
        DType::Q5_1 => each_block(values, &mut out, q5_1),
        DType::Q8_0 => each_block(values, &mut out, q8_0),
        DType::Q2_K | DType::Q3_K | DType::Q4_K | DType::Q5_K | DType::Q6_K => {
            return Err(Error::invalid(format!("{dtype} is read, but not written; take Q8_0")));
        }
    };
    if fits && values.iter().all(|v| v.is_finite()) {
        return Ok(out);
    }
    Err(Error::invalid(format!("a weight is not finite or too large for {dtype}; keep it in f32")))
}

/// Encodes block after block, until one can't be.
fn each_block<const VALUES: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut Vec<u8>,
    encode: impl Fn(&[f32; VALUES]) -> Option<[u8; BYTES]>,
) -> bool {
    let (blocks, _) = values.as_chunks::<VALUES>();
    blocks.iter().all(|block| {
        let encoded = encode(block);
        out.extend(encoded.iter().flatten());
        encoded.is_some()
    })
}

/// An f16, if it is finite.
fn half(value: f32) -> Option<[u8; 2]> {
    let rounded = f16::from_f32(value);
    rounded.is_finite().then_some(rounded.to_le_bytes())
}

/// The scale that maps one step onto `range / steps`, and what to multiply by to undo it.
fn scale(range: f32, steps: f32) -> (f32, f32) {
    let scale = range / steps;
    (scale, if scale == 0.0 { 0.0 } else { 1.0 / scale })
}

/// The value of largest magnitude, the first such.
fn largest(block: &[f32; 32]) -> f32 {
    block.iter().fold(0.0_f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

fn least_and_most(block: &[f32; 32]) -> (f32, f32) {
    block.iter().fold((f32::MAX, f32::MIN), |(least, most), &v| {
        (if v < least { v } else { least }, if v > most { v } else { most })
    })
}

/// The largest magnitude becomes ±127, halves are rounded away from zero.
fn q8_0(block: &[f32; 32]) -> Option<[u8; 34]> {
    let (scale, inverse) = scale(largest(block).abs(), 127.0);
    let mut out = [0; 34];
    out[..2].copy_from_slice(&half(scale)?);
    for (byte, v) in out[2..].iter_mut().zip(block) {
        *byte = (v * inverse).round() as i8 as u8;
    }
    Some(out)
}

/// The largest magnitude becomes −8; byte `i` holds values `i` and `i + 16`.
fn q4_0(block: &[f32; 32]) -> Option<[u8; 18]> {
    let (scale, inverse) = scale(largest(block), -8.0);
    let mut out = [0; 18];
    out[..2].copy_from_slice(&half(scale)?);
    pack_nibbles(&mut out[2..], |i| ((block[i] * inverse + 8.5) as u8).min(15));
    Some(out)
}

/// The least becomes 0, the most 15.
fn q4_1(block: &[f32; 32]) -> Option<[u8; 20]> {
    let (least, most) = least_and_most(block);
    let (scale, inverse) = scale(most - least, 15.0);
    let mut out = [0; 20];
    out[..2].copy_from_slice(&half(scale)?);
    out[2..4].copy_from_slice(&half(least)?);
    pack_nibbles(&mut out[4..], |i| (((block[i] - least) * inverse + 0.5) as u8).min(15));
    Some(out)
}

/// The largest magnitude becomes −16.
fn q5_0(block: &[f32; 32]) -> Option<[u8; 22]> {
    let (scale, inverse) = scale(largest(block), -16.0);
    let mut out = [0; 22];
    out[..2].copy_from_slice(&half(scale)?);
    pack_five_bits(&mut out[2..], |i| ((block[i] * inverse + 16.5) as u8).min(31));
    Some(out)
}

/// The least becomes 0, the most 31.
fn q5_1(block: &[f32; 32]) -> Option<[u8; 24]> {
    let (least, most) = least_and_most(block);
    let (scale, inverse) = scale(most - least, 31.0);
    let mut out = [0; 24];
    out[..2].copy_from_slice(&half(scale)?);
    out[2..4].copy_from_slice(&half(least)?);
    pack_five_bits(&mut out[4..], |i| (((block[i] - least) * inverse + 0.5) as u8).min(31));
    Some(out)
}

fn pack_nibbles(out: &mut [u8], quant: impl Fn(usize) -> u8) {
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = quant(i) & 15 | quant(i + 16) << 4;
    }
}

/// The fifth bits, that of value `i` at bit `i`, then the nibbles.
fn pack_five_bits(out: &mut [u8], quant: impl Fn(usize) -> u8) {
    let high = (0..32).fold(0_u32, |high, i| high | u32::from(quant(i) >> 4) << i);
    out[..4].copy_from_slice(&high.to_le_bytes());
    pack_nibbles(&mut out[4..], quant);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::quant::dequantize;
    use crate::formats::quant::tests::{floats, goldens, hex};
    use crate::testing::test;

    fn writable() -> impl Iterator<Item = DType> {
        DType::ALL.into_iter().filter(|&dtype| is_writable(dtype))
    }

    #[test]
    fn every_type_is_encoded_bit_for_bit_as_by_ggml() {
        let goldens = goldens();
        for dtype in writable() {
            let golden = &goldens["quantize"][dtype.name()];
            let bytes = quantize(dtype, &floats(&golden["values"])).expect("finite");
            assert_eq!(bytes, hex(&golden["bytes"]), "{dtype}");
        }
    }

    #[test]
    fn what_no_type_can_hold_is_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for dtype in writable() {
                let mut values = [0.5; 32];
                values[7] = bad;
                let problem = quantize(dtype, &values).unwrap_err().to_string();
                assert!(problem.contains(dtype.name()), "{problem}");
            }
        }
        let large = [1e9; 32];
        for dtype in writable() {
            let holds = matches!(dtype, DType::F32 | DType::BF16);
            assert_eq!(quantize(dtype, &large).is_ok(), holds, "{dtype}");
        }
        assert!(quantize(DType::BF16, &[f32::MAX]).is_err());
    }

    #[test]
    fn lengths_and_types_that_can_not_be_written_are_errors() {
        assert!(
            quantize(DType::Q8_0, &[0.0; 31]).unwrap_err().to_string().contains("blocks of 32")
        );
        let problem = quantize(DType::Q4_K, &[0.0; 256]).unwrap_err().to_string();
        assert_eq!(problem, "Q4_K is read, but not written; take Q8_0");
        assert!(quantize(DType::Q4_0, &[]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn what_comes_back_is_within_a_step(
            values in prop::collection::vec(-4.0_f32..4.0, 64),
        ) {
            for (dtype, steps) in [
                (DType::F32, f32::INFINITY), (DType::F16, 2048.0), (DType::BF16, 256.0),
                (DType::Q8_0, 250.0), (DType::Q5_0, 16.0), (DType::Q5_1, 31.0),
                (DType::Q4_0, 8.0), (DType::Q4_1, 15.0),
            ] {
                let mut back = vec![0.0; values.len()];
                dequantize(dtype, &quantize(dtype, &values).unwrap(), &mut back).unwrap();
                for (a, b) in values.iter().zip(&back) {
                    // Half a step is lost, a whole one at the end that has no quant of its own;
                    // a step is at most 8 values wide, its f16 scale some thousandths more.
                    prop_assert!((a - b).abs() <= 8.1 / steps, "{dtype}: {a} became {b}");
                }
            }
        }
    }
}
