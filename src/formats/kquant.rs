//! ggml's K-quants: super-blocks of 256 values whose scales are quantised too.
//!
//! In all of them value `i` of a super-block lies in the group `i / 16` or `i / 32` of its scale,
//! and the bits of 32 neighbours lie in 32 neighbouring bytes, at the same shift.

use super::quant::half_at;

/// 16 groups of 16: 4-bit scales and minima, 2-bit quants.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, quants) = block[..80].split_at(16);
    let (scale, min) = (half_at(block, 80), half_at(block, 82));
    for (i, value) in out.iter_mut().enumerate() {
        let group = scales[i / 16];
        let quant = two_bits(quants, i);
        *value = scale * (group & 15) as f32 * quant as f32 - min * (group >> 4) as f32;
    }
}

/// 16 groups of 16: signed 6-bit scales, 2-bit quants, minus 4 where the mask's bit is clear.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (mask, rest) = block.split_at(32);
    let (quants, rest) = rest.split_at(64);
    let (scales, _) = rest.split_at(12);
    let scale = half_at(block, 108);
    for (i, value) in out.iter_mut().enumerate() {
        let group = i / 16;
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let group_scale = scale * ((low | high << 4) as f32 - 32.0);
        let offset = if mask[i % 32] >> (i / 32) & 1 == 1 { 0.0 } else { 4.0 };
        *value = group_scale * (two_bits(quants, i) as f32 - offset);
    }
}

/// 8 groups of 32: 6-bit scales and minima, 4-bit quants.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let quants = &block[16..];
    for (i, value) in out.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(block, i / 32);
        *value = scale * four_bits(quants, i) as f32 - min;
    }
}

/// Q4_K with a fifth bit per quant.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (high, quants) = block[16..].split_at(32);
    for (i, value) in out.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(block, i / 32);
        let fifth = high[i % 32] >> (i / 32) & 1;
        *value = scale * (four_bits(quants, i) | fifth << 4) as f32 - min;
    }
}

/// 16 groups of 16: signed 8-bit scales, 6-bit quants around 32.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, _) = rest.split_at(16);
    let scale = half_at(block, 208);
    for (i, value) in out.iter_mut().enumerate() {
        // Each half of 128 has 64 bytes of nibbles: 64 low ones, then 64 high ones.
        let nibble = low[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        let quant = (nibble | two_bits(high, i) << 4) as f32 - 32.0;
        *value = scale * (scales[i / 16] as i8) as f32 * quant;
    }
}

/// Value `i` of 2-bit quants: per half of 128, 32 bytes hold four runs of 32.
fn two_bits(quants: &[u8], i: usize) -> u8 {
    quants[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3
}

/// Value `i` of 4-bit quants: per quarter of 64, 32 bytes hold two runs of 32.
fn four_bits(quants: &[u8], i: usize) -> u8 {
    quants[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15
}

/// Scale and minimum of a group of Q4_K and Q5_K, whose blocks start with the scale of the scales,
/// that of the minima, and 12 bytes with 6 bits of each: four whole scales, four whole minima,
/// and the low nibbles of the other four, whose upper bits are the spare ones of the first eight.
fn scale_and_min(block: &[u8], group: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, min) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let nibbles = packed[group + 4];
        (nibbles & 15 | packed[group - 4] >> 6 << 4, nibbles >> 4 | packed[group] >> 6 << 4)
    };
    (half_at(block, 0) * scale as f32, half_at(block, 2) * min as f32)
}
