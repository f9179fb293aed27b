//! Which of several ways of computing the same the kernels take on a device.

use serde::{Deserialize, Serialize};

/// How many lanes of a software adapter load for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// SwiftShader's.
    Four,
    /// llvmpipe's.
    Eight,
}

impl Lanes {
    pub(crate) fn count(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// How a matrix product is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Tiles in workgroup memory, neighbouring threads loading neighbouring words: for GPUs.
    Tile,
    /// A thread does many rows by many tokens in registers and loads all that it needs: for software
    /// adapters, where barriers cost much.
    Loads,
    /// The same, where eight lanes load for one another: for software adapters with subgroups of
    /// eight.
    Broadcast,
    /// The same, where four lanes do; one token's product is that of `Loads`.
    Quads,
}

impl Variant {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Tile, Self::Loads, Self::Broadcast, Self::Quads];
}

/// The variant of each product that has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variants {
    /// `X Wᵀ` of many tokens.
    pub matmul: Variant,
    /// `dY W` of many tokens.
    pub matmul_transposed: Variant,
    /// `W x` of one token.
    pub matvec: Variant,
}

impl Variants {
    /// The same for every product.
    pub fn all(variant: Variant) -> Self {
        Self { matmul: variant, matmul_transposed: variant, matvec: variant }
    }

    /// Each of them.
    pub fn each(self) -> [Variant; 3] {
        [self.matmul, self.matmul_transposed, self.matvec]
    }
}
