//! How keys and values are stored: as they are, or in half the memory.

use half::f16;

/// What a cache of keys and values holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// 4 bytes a feature: what was computed.
    F32,
    /// 2 bytes a feature, rounded to 11 bits and at most ±65504.
    #[default]
    F16,
}

impl KvType {
    /// Bytes of a feature.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }

    /// `values` as a cache holds them.
    pub fn pack(self, values: &[f32]) -> Vec<u8> {
        match self {
            KvType::F32 => bytemuck::cast_slice(values).to_vec(),
            KvType::F16 => {
                let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
                bytemuck::cast_slice(&halves).to_vec()
            }
        }
    }

    /// What [`Self::pack`] packed.
    pub fn unpack(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            KvType::F32 => bytemuck::pod_collect_to_vec(bytes),
            KvType::F16 => {
                bytemuck::pod_collect_to_vec::<u8, f16>(bytes).iter().map(|v| v.to_f32()).collect()
            }
        }
    }
}
