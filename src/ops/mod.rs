//! The coarse operations a model is written in, and who carries them out.
//!
//! A model is one function over [`Ops`]. [`GpuOps`] records the kernels for replay (inference),
//! [`Tape`] is the same recorder that remembers what the backward kernels need (training), and
//! [`Reference`] computes on the spot, naively, on the CPU (tests).

mod fused;
mod gpu;
mod reference;
mod tape;

pub use gpu::{GpuLora, GpuOps, Kept, KeptDora, KvCache, Parameter, Pool};
pub use reference::{Reference, Rows};
pub use tape::{Tape, Tracked, WeightGradients};

use crate::Result;
use crate::kernels::attention::AttentionShape;

/// A frozen linear layer: `y = x Wᵀ + bias`.
#[derive(Debug, Clone)]
pub struct Linear<M, V> {
    /// (out, in)
    pub weight: M,
    /// (out)
    pub bias: Option<V>,
}

/// A low-rank update of a linear layer (Hu et al., 2021) in MLX's layout:
/// `y += scale · (x A) B`. With a magnitude it is DoRA (Liu et al., 2024), as PEFT computes it: the
/// row `o` of the updated weight `W + scale · (A B)ᵀ` is scaled to the length `magnitude[o]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora<P> {
    /// (in, rank), row-major.
    pub a: P,
    /// (rank, out), row-major.
    pub b: P,
    /// Columns of `a`.
    pub rank: usize,
    /// Used as it is; PEFT's `lora_alpha / r`.
    pub scale: f32,
    /// DoRA's (out).
    pub magnitude: Option<P>,
}

impl<P> Lora<P> {
    /// Its arrays, with the names that they have in a run's report.
    pub fn arrays(&self) -> impl Iterator<Item = (&'static str, &P)> {
        let magnitude = self.magnitude.as_ref().map(|m| ("lora_magnitude_vector", m));
        [("lora_a", &self.a), ("lora_b", &self.b)].into_iter().chain(magnitude)
    }
}

/// A linear layer and what training adds to it.
#[derive(Debug)]
pub struct Adapted<'a, M, V, U> {
    /// The frozen layer.
    pub layer: &'a Linear<M, V>,
    /// Its update, if it has one.
    pub update: Option<&'a U>,
}

/// A root-mean-square normalisation.
#[derive(Debug)]
pub struct Norm<'a, V> {
    /// (features)
    pub weight: &'a V,
    /// What is added to the mean square.
    pub eps: f32,
}

/// [`Adapted`] for an implementation of [`Ops`].
pub type AdaptedBy<'a, O> = Adapted<'a, <O as Ops>::Matrix, <O as Ops>::Vector, <O as Ops>::Update>;

/// What a decoder is made of. Tensors are (T, features) over the tokens of one replay; which
/// tokens those are, and at which positions, the implementation was told beforehand.
pub trait Ops {
    /// A weight matrix (out, in).
    type Matrix;
    /// A frozen f32 vector.
    type Vector;
    /// What training adds to a linear layer.
    type Update;
    /// Activations (T, features).
    type Tensor: Clone;

    /// The rows of `table` (vocab, features) at the tokens' ids, and what `update` adds to them:
    /// [`Lora`]'s `a` is (vocab, rank), its `b` (rank, features).
    ///
    /// # Errors
    /// An update where the implementation has none of the embedding.
    fn embedding(
        &mut self,
        table: &Self::Matrix,
        update: Option<&Self::Update>,
    ) -> Result<Self::Tensor>;

    /// Root-mean-square normalisation of each row, times `weight` (features).
    fn rms_norm(
        &mut self,
        x: &Self::Tensor,
        weight: &Self::Vector,
        eps: f32,
    ) -> Result<Self::Tensor>;

    /// `x Wᵀ + bias`, what `update` makes of that, `+ residual`: the last three if given. An
    /// [`Update`](Self::Update) that every implementation has is [`Lora`].
    fn linear(
        &mut self,
        x: &Self::Tensor,
        layer: &Linear<Self::Matrix, Self::Vector>,
        update: Option<&Self::Update>,
        residual: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor>;

    /// Rotates each head of `x` (T, heads · head_dim) by its token's position, half-split layout.
    fn rope(&mut self, x: Self::Tensor, head_dim: usize) -> Result<Self::Tensor>;

    /// Causal attention within each sequence, over the cache of block `layer` where there is one.
    /// `q` (T, heads · head_dim), `k`, `v` (T, kv_heads · head_dim), both rotated.
    fn attention(
        &mut self,
        layer: usize,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        shape: AttentionShape,
    ) -> Result<Self::Tensor>;

    /// `silu(gate) · up`, element by element.
    fn silu_mul(&mut self, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor>;

    /// The first half of a block: `x + o(attention(q(n), k(n), v(n)))` of the normalised x, with
    /// rotated queries and keys. `layers` are q, k, v and o. What it means is [`self_attention`].
    fn self_attention(
        &mut self,
        layer: usize,
        x: &Self::Tensor,
        norm: &Norm<'_, Self::Vector>,
        layers: &[AdaptedBy<'_, Self>; 4],
        shape: AttentionShape,
    ) -> Result<Self::Tensor> {
        self_attention(self, layer, x, norm, layers, shape)
    }

    /// The second half of a block: `x + down(silu(gate(n)) · up(n))` of the normalised x. `layers` are
    /// gate, up and down. What it means is [`mlp`].
    fn mlp(
        &mut self,
        x: &Self::Tensor,
        norm: &Norm<'_, Self::Vector>,
        layers: &[AdaptedBy<'_, Self>; 3],
    ) -> Result<Self::Tensor> {
        mlp(self, x, norm, layers)
    }
}

/// [`Ops::self_attention`] in the basic operations.
pub fn self_attention<O: Ops + ?Sized>(
    ops: &mut O,
    layer: usize,
    x: &O::Tensor,
    norm: &Norm<'_, O::Vector>,
    layers: &[AdaptedBy<'_, O>; 4],
    shape: AttentionShape,
) -> Result<O::Tensor> {
    let [q, k, v, o] = layers;
    let normed = ops.rms_norm(x, norm.weight, norm.eps)?;
    let queries = ops.linear(&normed, q.layer, q.update, None)?;
    let keys = ops.linear(&normed, k.layer, k.update, None)?;
    let values = ops.linear(&normed, v.layer, v.update, None)?;
    let queries = ops.rope(queries, shape.head_dim)?;
    let keys = ops.rope(keys, shape.head_dim)?;
    let mixed = ops.attention(layer, &queries, &keys, &values, shape)?;
    ops.linear(&mixed, o.layer, o.update, Some(x))
}

/// [`Ops::mlp`] in the basic operations.
pub fn mlp<O: Ops + ?Sized>(
    ops: &mut O,
    x: &O::Tensor,
    norm: &Norm<'_, O::Vector>,
    layers: &[AdaptedBy<'_, O>; 3],
) -> Result<O::Tensor> {
    let [gate, up, down] = layers;
    let gated = gated(ops, x, norm, [gate, up])?;
    ops.linear(&gated, down.layer, down.update, Some(x))
}

/// What [`mlp`] has before its last layer: `silu(gate(n)) · up(n)` of the normalised x.
fn gated<O: Ops + ?Sized>(
    ops: &mut O,
    x: &O::Tensor,
    norm: &Norm<'_, O::Vector>,
    [gate, up]: [&AdaptedBy<'_, O>; 2],
) -> Result<O::Tensor> {
    let normed = ops.rms_norm(x, norm.weight, norm.eps)?;
    let gates = ops.linear(&normed, gate.layer, gate.update, None)?;
    let ups = ops.linear(&normed, up.layer, up.update, None)?;
    ops.silu_mul(&gates, &ups)
}
