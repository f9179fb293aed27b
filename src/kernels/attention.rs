//! Causal attention with grouped query heads: a workgroup per token and head, or for software adapters a
//! thread per two tokens of a head.

use super::kv::KvType;
use super::{Rows, Tensor, Token, check};
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Lanes, Recorder};
use crate::{Error, Result};

macro_rules! kernel {
    ($name:literal, $($part:literal),+) => {
        Kernel {
            name: $name,
            source: &[
                include_str!("step.wgsl"),
                include_str!("token.wgsl"),
                include_str!("eight.wgsl"),
                include_str!("attention_bindings.wgsl"),
                $(include_str!($part)),+
            ],
            storage: &[Read, Read, Read, Read, Write, Write],
        }
    };
}

const F32: Kernel = kernel!("attention_f32", "kv_f32.wgsl", "attention.wgsl");
const F16: Kernel = kernel!("attention_f16", "kv_f16.wgsl", "attention.wgsl");
const BROADCAST_F32: Kernel = kernel!(
    "attention_broadcast_f32",
    "kv_f32.wgsl",
    "exchange_broadcast.wgsl",
    "eight_products.wgsl",
    "attention_rows.wgsl"
);
const BROADCAST_F16: Kernel = kernel!(
    "attention_broadcast_f16",
    "kv_f16.wgsl",
    "exchange_broadcast.wgsl",
    "eight_products.wgsl",
    "attention_rows.wgsl"
);
const QUADS_F32: Kernel = kernel!(
    "attention_quads_f32",
    "kv_f32.wgsl",
    "exchange_quads.wgsl",
    "eight_products.wgsl",
    "attention_rows.wgsl"
);
const QUADS_F16: Kernel = kernel!(
    "attention_quads_f16",
    "kv_f16.wgsl",
    "exchange_quads.wgsl",
    "eight_products.wgsl",
    "attention_rows.wgsl"
);

/// Tokens that a lane of `attention_rows.wgsl` does.
const LANE_TOKENS: u32 = 2;
/// The largest head of the kernels whose lanes load for one another.
pub(super) const LANES_HEAD_DIM: usize = 64;

/// Largest head dimension the kernels take.
pub const MAX_HEAD_DIM: usize = 256;

/// The heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` uses number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Features of a head, d: a multiple of 8, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
}

impl AttentionShape {
    /// # Errors
    /// [`Error::Invalid`] if the kernels can't take these heads.
    pub fn check(&self) -> Result<()> {
        let Self { heads, kv_heads, head_dim } = *self;
        if kv_heads == 0 || heads == 0 || heads % kv_heads != 0 {
            return Err(Error::invalid(format!(
                "{heads} attention heads can't share {kv_heads} key-value heads evenly"
            )));
        }
        if head_dim == 0 || head_dim % 8 != 0 || head_dim > MAX_HEAD_DIM {
            return Err(Error::invalid(format!(
                "attention heads of {head_dim} features: \
                 only multiples of 8 up to {MAX_HEAD_DIM} are supported"
            )));
        }
        Ok(())
    }

    pub(super) fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    heads: u32,
    kv_heads: u32,
    quads: u32,
    scale: f32,
    want_lse: u32,
    pad: u32,
}

/// Records `out[t, h] = softmax(q[t, h] · kᵀ / √d) · v` over the key rows
/// `tokens[t].first_key..=last_key`.
///
/// `q`, `out` (T, heads·d); `k`, `v` (rows, kv_heads·d) of type `kv`, a cache or the batch itself;
/// `tokens` one [`Token`] for each of the replay's tokens; `lse` (T, heads) receives the natural logarithm of
/// the softmax's denominator, which the backward reads.
///
/// # Errors
/// [`Error::Invalid`] if [`AttentionShape::check`] says so.
pub fn attention(
    r: &mut Recorder,
    q: &Tensor,
    (k, v, kv): (&Buffer, &Buffer, KvType),
    tokens: &Buffer,
    shape: AttentionShape,
    out: &Tensor,
    lse: Option<&Tensor>,
) -> Result<()> {
    shape.check()?;
    let params = Params {
        rows: q.rows(),
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        quads: shape.head_dim as u32 / 4,
        scale: shape.scale() as f32,
        want_lse: lse.is_some().into(),
        pad: 0,
    };
    // Something must be bound; the bind group keeps it alive.
    let unwanted = r.context().storage("no lse", 4)?;
    let lse = lse.map_or_else(|| (&unwanted).into(), Tensor::binding);
    let bindings = [q.binding(), k.into(), v.into(), tokens.into(), out.binding(), lse];
    let lanes = r.context().lanes();
    let lanes = lanes.filter(|_| q.capacity() > 1 && shape.head_dim <= LANES_HEAD_DIM);
    let kernel = match (lanes, kv) {
        (None, KvType::F32) => &F32,
        (None, KvType::F16) => &F16,
        (Some(Lanes::Eight), KvType::F32) => &BROADCAST_F32,
        (Some(Lanes::Eight), KvType::F16) => &BROADCAST_F16,
        (Some(Lanes::Four), KvType::F32) => &QUADS_F32,
        (Some(Lanes::Four), KvType::F16) => &QUADS_F16,
    };
    let per = lanes.map_or(1, |lanes| lanes.count() * LANE_TOKENS);
    let eights = [("EIGHTS", shape.head_dim as f64 / 8.0)];
    let constants = if lanes.is_some() { &eights[..] } else { &[] };
    let grid = [Extent::Fixed(shape.heads as u32), q.per_token(per), super::ONE];
    r.dispatch(kernel, constants, &params, &bindings, grid)
}

/// The reference of [`attention`]: `out` and `lse` for each of `tokens`.
pub fn reference(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    tokens: &[Token],
    shape: AttentionShape,
) -> (Vec<f32>, Vec<f32>) {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for (t, token) in tokens.iter().enumerate() {
        for head in 0..heads {
            let query = &q[(t * heads + head) * head_dim..][..head_dim];
            let kv_head = head / (heads / kv_heads);
            let at = |key: u32| (key as usize * kv_heads + kv_head) * head_dim;
            let keys = token.first_key..=token.last_key;
            let scores: Vec<f64> = keys
                .clone()
                .map(|key| shape.scale() * dot(query, &k[at(key)..][..head_dim]))
                .collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - highest).exp()).sum();
            let mut sum = vec![0.0; head_dim];
            for (key, score) in keys.zip(&scores) {
                let weight = (score - highest).exp() / total;
                for (sum, &value) in sum.iter_mut().zip(&v[at(key)..]) {
                    *sum += weight * f64::from(value);
                }
            }
            out.extend(sum.iter().map(|&s| s as f32));
            lse.push((highest + total.ln()) as f32);
        }
    }
    (out, lse)
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Tokens of sequences of these lengths, packed one after another.
pub fn packed(lengths: &[usize]) -> Vec<Token> {
    let mut tokens = Vec::new();
    for &length in lengths {
        let first_key = tokens.len() as u32;
        let token = |position| Token { id: 0, position, first_key, last_key: first_key + position };
        tokens.extend((0..length as u32).map(token));
    }
    tokens
}

/// Compares kernel and reference on packed sequences of these lengths.
pub async fn parity(context: &Context, lengths: &[usize], shape: AttentionShape) -> Result<()> {
    let tokens = packed(lengths);
    parity_of(context, &tokens, tokens.len(), shape, KvType::F32).await
}

/// Compares kernel and reference on `tokens` that see a cache of `rows` rows.
pub async fn parity_of(
    context: &Context,
    tokens: &[Token],
    rows: usize,
    shape: AttentionShape,
    kv: KvType,
) -> Result<()> {
    let (cols, kv_cols) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let count = tokens.len();
    // Larger than unit scores, so that the softmax is far from flat.
    let q: Vec<f32> = check::noise(1, count * cols).iter().map(|x| 4.0 * x).collect();
    let (k, v) = (check::noise(2, rows * kv_cols), check::noise(3, rows * kv_cols));
    let q_gpu = Tensor::from(context, cols, &q)?;
    let (packed_k, packed_v) = (kv.pack(&k), kv.pack(&v));
    let k_gpu = context.storage_from("k", &packed_k)?;
    let v_gpu = context.storage_from("v", &packed_v)?;
    let (k, v) = (kv.unpack(&packed_k), kv.unpack(&packed_v));
    let tokens_gpu = context.storage_from("tokens", tokens)?;
    let (out, lse) =
        (Tensor::new(context, count, cols)?, Tensor::new(context, count, shape.heads)?);
    check::run(context, count, |r| {
        attention(r, &q_gpu, (&k_gpu, &v_gpu, kv), &tokens_gpu, shape, &out, Some(&lse))
    })?;
    let (out_expected, lse_expected) = reference(&q, &k, &v, tokens, shape);
    let actual = context.read(out.buffer(), 0, count * cols).await?;
    check::close("attention", &actual, &out_expected, 2e-6, 1e-5)?;
    let actual = context.read(lse.buffer(), 0, count * shape.heads).await?;
    check::close("attention lse", &actual, &lse_expected, 2e-6, 1e-5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{async_test, test};

    const fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
        AttentionShape { heads, kv_heads, head_dim }
    }

    #[async_test]
    async fn matches_the_reference_on_packed_sequences() {
        for context in check::test_contexts().await {
            for (lengths, shape) in [
                (&[1usize][..], shape(1, 1, 8)),
                (&[3, 1, 7], shape(9, 3, 64)),
                (&[65, 2], shape(2, 1, 24)),
                (&[130], shape(4, 4, 80)),
                (&[66], shape(2, 2, 256)),
                (&[150], shape(2, 1, 64)),
            ] {
                parity(&context, lengths, shape).await.unwrap();
            }
        }
    }

    #[async_test]
    async fn tokens_see_a_long_cache_from_their_first_key() {
        let context = check::test_context().await;
        for (first_key, last_key) in [(0, 0), (0, 63), (0, 64), (5, 1000), (128, 191)] {
            let token = Token { first_key, last_key, ..Token::default() };
            for kv in [KvType::F32, KvType::F16] {
                for count in [1, 11] {
                    let tokens = vec![token; count];
                    parity_of(&context, &tokens, 1024, shape(6, 2, 64), kv).await.unwrap();
                }
            }
        }
    }

    #[async_test]
    async fn large_scores_do_not_overflow() {
        let context = check::test_context().await;
        let (q, k) = (vec![100f32; 8], [vec![-90f32; 8], vec![90f32; 8]].concat());
        let v: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let tokens = [Token { last_key: 1, ..Token::default() }];
        let q_gpu = Tensor::from(&context, 8, &q).unwrap();
        let k_gpu = context.storage_from("k", &k).unwrap();
        let v_gpu = context.storage_from("v", &v).unwrap();
        let tokens_gpu = context.storage_from("tokens", &tokens).unwrap();
        let out = Tensor::new(&context, 1, 8).unwrap();
        check::run(&context, 1, |r| {
            let kv = (&k_gpu, &v_gpu, KvType::F32);
            attention(r, &q_gpu, kv, &tokens_gpu, shape(1, 1, 8), &out, None)
        })
        .unwrap();
        let actual: Vec<f32> = context.read(out.buffer(), 0, 8).await.unwrap();
        assert_eq!(actual, v[8..]);
    }

    #[test]
    fn refuses_heads_it_cannot_take() {
        assert!(shape(9, 3, 64).check().is_ok());
        for bad in [shape(9, 2, 64), shape(0, 0, 64), shape(1, 1, 12), shape(1, 1, 264)] {
            assert!(bad.check().is_err());
        }
    }
}
