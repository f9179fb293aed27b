//! One token of a replay, and what it should predict.

/// What the kernels know of a token; a replay reads an array of them. Its WGSL twin is
/// in `token.wgsl`.
///
/// Sequences stand one after another without padding; attention of a token sees the key rows
/// `first_key..=last_key`. With a cache, rows are cache rows and `first_key` is 0; without, they
/// are rows of the batch, and a token's own key is always `last_key`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Token {
    /// Its id in the vocabulary.
    pub id: u32,
    /// Its position in its sequence, from 0.
    pub position: u32,
    /// First key row it attends to.
    pub first_key: u32,
    /// Last key row it attends to: its own.
    pub last_key: u32,
}

/// What a token should predict. In WGSL a `vec2<u32>`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Target {
    /// The next token's id.
    pub id: u32,
    /// The weight of its loss; 0 for none.
    pub weight: f32,
}
