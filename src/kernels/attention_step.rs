//! What one decoded token does between the products of its attention: rotation, writing into the
//! cache, attention, and what an adapter adds to the queries, keys and values, in one dispatch.

use super::attention::{self, AttentionShape, MAX_HEAD_DIM};
use super::kv::KvType;
use super::lora::{self, Param};
use super::{ONE, Tensor, Token, append, check, rope};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Lanes, Recorder};

macro_rules! kernel {
    ($name:literal, $($part:literal),+) => {
        Kernel {
            name: $name,
            source: &[
                include_str!("step.wgsl"),
                include_str!("token.wgsl"),
                include_str!("eight.wgsl"),
                include_str!("narrow.wgsl"),
                include_str!("attention_step.wgsl"),
                $(include_str!($part)),+
            ],
            storage: &[Read, Read, Read, Read, Write, Write, Write],
        }
    };
}

const F32: Kernel = kernel!("attention_step_f32", "kv_f32.wgsl", "attention_step_plain.wgsl");
const F16: Kernel = kernel!("attention_step_f16", "kv_f16.wgsl", "attention_step_plain.wgsl");
const SUBGROUP_F32: Kernel =
    kernel!("attention_step_subgroup_f32", "kv_f32.wgsl", "attention_step_subgroup.wgsl");
const SUBGROUP_F16: Kernel =
    kernel!("attention_step_subgroup_f16", "kv_f16.wgsl", "attention_step_subgroup.wgsl");

/// The second half of a low-rank update, `scale · h B`, that whoever reads the product adds.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    /// (rank, out)
    pub b: Param<'a>,
    /// Columns of A.
    pub rank: usize,
    /// The column of the products' tensor where h begins.
    pub at: usize,
    /// Of the update.
    pub scale: f32,
}

/// The first half of the update of the layer that takes the result: each workgroup computes its
/// features' share of `h = x A`, which go behind the result one after another.
#[derive(Debug, Clone, Copy)]
pub struct Narrow<'a> {
    /// (in, rank)
    pub a: Param<'a>,
    /// Columns of A.
    pub rank: usize,
    /// The column of the result's tensor where the shares begin.
    pub at: usize,
}

/// One token's products, before rotation, and what is still to be added to them.
#[derive(Debug, Clone, Copy)]
pub struct Projected<'a> {
    /// (1, …): queries (heads · d), and elsewhere keys and values (kv_heads · d).
    pub qkv: &'a Tensor,
    /// The column where the keys begin, and that of the values: multiples of four.
    pub kv_at: [usize; 2],
    /// For queries, keys, values.
    pub pending: [Option<Pending<'a>>; 3],
}

/// A kernel's `Up`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct UpParams {
    place: u32,
    rank: u32,
    at: u32,
    scale: f32,
}

/// A kernel's `Narrow`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct NarrowParams {
    place: u32,
    rank: u32,
    at: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    heads: u32,
    kv_heads: u32,
    quads: u32,
    scale: f32,
    kv_at: [u32; 2],
    pad: [u32; 2],
    up: [UpParams; 3],
    down: NarrowParams,
}

impl UpParams {
    pub(super) fn of(pending: Option<Pending<'_>>) -> Self {
        pending.map_or(Self { place: 0, rank: 0, at: 0, scale: 0.0 }, |p| Self {
            place: p.b.offset,
            rank: p.rank as u32,
            at: p.at as u32,
            scale: p.scale,
        })
    }
}

impl NarrowParams {
    pub(super) fn of(down: Option<Narrow<'_>>) -> Self {
        let (place, rank, at) =
            down.map_or((0, 0, 0), |d| (d.a.offset, d.rank as u32, d.at as u32));
        Self { place, rank, at, pad: 0 }
    }
}

/// Records, for the one token of `tokens`: its updated queries and keys rotated by its position in
/// `table`, keys and values written into row `last_key` of `cache`, and `out`, the
/// [`attention`](attention::attention) over the rows `first_key..=last_key`.
///
/// `cache` are keys and values (capacity, kv_heads · d) and their type; `out` (1, heads · d) and `down`'s shares, one
/// a head. All parameters are in one buffer.
///
/// # Errors
/// As [`attention`](attention::attention).
pub fn attention_step(
    r: &mut Recorder,
    products: &Projected<'_>,
    (tokens, table): (&Buffer, &Buffer),
    cache: (&Buffer, &Buffer, KvType),
    shape: AttentionShape,
    down: Option<Narrow<'_>>,
    out: &Tensor,
) -> Result<()> {
    shape.check()?;
    let params = Params {
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        quads: shape.head_dim as u32 / 4,
        scale: shape.scale() as f32,
        kv_at: products.kv_at.map(|at| at as u32 / 4),
        pad: [0; 2],
        up: products.pending.map(UpParams::of),
        down: NarrowParams::of(down),
    };
    let pending = products.pending.iter().flatten().map(|pending| pending.b.buffer);
    let parameters = pending.chain(down.map(|down| down.a.buffer)).next();
    let bindings = [
        products.qkv.binding(),
        tokens.into(),
        table.into(),
        parameters.map_or(products.qkv.binding(), Into::into),
        cache.0.into(),
        cache.1.into(),
        out.binding(),
    ];
    let grid = [Extent::Fixed(shape.heads as u32), ONE, ONE];
    let kernel = match (r.context().lanes(), cache.2) {
        (Some(Lanes::Eight), KvType::F32) => &SUBGROUP_F32,
        (Some(Lanes::Eight), KvType::F16) => &SUBGROUP_F16,
        (_, KvType::F32) => &F32,
        (_, KvType::F16) => &F16,
    };
    r.dispatch(kernel, &[], &params, &bindings, grid)
}

/// Compares the kernel with the references of its parts, for a token that sees the cache's rows from
/// `first_key` to `last_key`; with updates of that rank unless it is 0.
pub async fn parity(
    context: &Context,
    (first_key, last_key): (u32, u32),
    shape: AttentionShape,
    rank: usize,
    kv: KvType,
) -> Result<()> {
    const SCALE: f32 = 0.5;
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let (q_cols, kv_cols) = (heads * head_dim, kv_heads * head_dim);
    let rows = last_key as usize + 1;
    let token = Token { id: 0, position: 5, first_key, last_key };

    // Queries, keys and values with gaps between them, then three h's at odd places.
    let (k_at, v_at) = (q_cols + 8, q_cols + kv_cols + 12);
    let h_at = |i: usize| v_at + kv_cols + 1 + i * rank;
    let mut qkv = check::noise(1, h_at(3));
    qkv[..q_cols].iter_mut().for_each(|q| *q *= 4.0);
    let (keys, values) = (check::noise(2, rows * kv_cols), check::noise(3, rows * kv_cols));
    let (packed_keys, packed_values) = (kv.pack(&keys), kv.pack(&values));
    let (keys, values) = (kv.unpack(&packed_keys), kv.unpack(&packed_values));
    let angles = check::noise(4, 6 * head_dim / 2);
    let table: Vec<[f32; 2]> = angles.iter().map(|a| [(a * 4.0).cos(), (a * 4.0).sin()]).collect();
    let b_cols = [q_cols, kv_cols, kv_cols];
    let b_at = [0, q_cols, q_cols + kv_cols].map(|cols| 3 + rank * cols);
    let a_at = b_at[2] + rank * kv_cols;
    let parameters = check::noise(5, a_at + q_cols * rank);

    let qkv_gpu = Tensor::from(context, qkv.len(), &qkv)?;
    let cache = (
        context.storage_from("keys", &packed_keys)?,
        context.storage_from("values", &packed_values)?,
    );
    let token_gpu = context.storage_from("token", &[token])?;
    let table_gpu = context.storage_from("table", &table)?;
    let parameters_gpu = context.storage_from("parameters", &parameters)?;
    let param = |offset: usize| Param { buffer: &parameters_gpu, offset: offset as u32 };
    let out = Tensor::new(context, 1, q_cols + heads * rank)?;
    check::run(context, 1, |r| {
        let pending = [0, 1, 2].map(|i| {
            let pending = Pending { b: param(b_at[i]), rank, at: h_at(i), scale: SCALE };
            (rank > 0).then_some(pending)
        });
        let products = Projected { qkv: &qkv_gpu, kv_at: [k_at, v_at], pending };
        let down = (rank > 0).then_some(Narrow { a: param(a_at), rank, at: q_cols });
        let inputs = (&token_gpu, &table_gpu);
        attention_step(r, &products, inputs, (&cache.0, &cache.1, kv), shape, down, &out)
    })?;

    let updated = |i: usize, at: usize| -> Vec<f32> {
        let product = &qkv[at..][..b_cols[i]];
        if rank == 0 {
            return product.to_vec();
        }
        let b = &parameters[b_at[i]..][..rank * b_cols[i]];
        let update = lora::reference(&qkv[h_at(i)..][..rank], b, rank, SCALE);
        product.iter().zip(update).map(|(x, update)| x + update).collect()
    };
    let (mut q, mut k, v) = (updated(0, 0), updated(1, k_at), updated(2, v_at));
    rope::reference(&mut q, &[token.position], &table, head_dim, false);
    rope::reference(&mut k, &[token.position], &table, head_dim, false);
    let (mut new_keys, mut new_values) = (keys, values);
    append::reference(&k, &[last_key], &mut new_keys);
    append::reference(&v, &[last_key], &mut new_values);
    let (mut expected, _) = attention::reference(&q, &new_keys, &new_values, &[token], shape);
    if rank > 0 {
        let a = &parameters[a_at..];
        for (x, a) in expected.clone().chunks_exact(head_dim).zip(a.chunks_exact(head_dim * rank)) {
            expected.extend(lora::reference(x, a, head_dim, 1.0));
        }
    }
    for (what, buffer, expected) in [
        ("attention_step keys", &cache.0, new_keys),
        ("attention_step values", &cache.1, new_values),
    ] {
        let actual = context.read(buffer, 0, expected.len() * kv.bytes()).await?;
        // A device may round either way.
        let rtol = if kv == KvType::F16 { 1e-3 } else { 1e-5 };
        check::close(what, &kv.unpack(&actual), &expected, 4e-6, rtol)?;
    }
    let actual = context.read(out.buffer(), 0, expected.len()).await?;
    check::close("attention_step", &actual, &expected, 4e-6, 1e-5)
}

const _: () = assert!(MAX_HEAD_DIM == 256, "the arrays of both shaders hold that many");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_references() {
        let [context, without, _] = check::test_contexts().await;
        let shape = |heads, kv_heads, head_dim| AttentionShape { heads, kv_heads, head_dim };
        for (keys, shape, rank) in [
            ((0, 0), shape(1, 1, 8), 0),
            ((0, 1), shape(9, 3, 64), 8),
            ((0, 64), shape(2, 1, 24), 3),
            ((5, 70), shape(4, 4, 80), 19),
            ((0, 63), shape(2, 2, 256), 1),
            ((128, 300), shape(6, 2, 64), 0),
        ] {
            for kv in [KvType::F32, KvType::F16] {
                parity(&context, keys, shape, rank, kv).await.unwrap();
                parity(&without, keys, shape, rank, kv).await.unwrap();
            }
        }
    }
}
