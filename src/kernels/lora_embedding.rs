//! The low-rank update of an embedding, `y += s · A[id] B`.

use super::lora::Param;
use super::{ONE, Rows, Tensor, Token, check};
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder};
use crate::{Error, Result};

const KERNEL: Kernel = Kernel {
    name: "lora_embedding",
    source: &[include_str!("step.wgsl"), include_str!("lora_embedding.wgsl")],
    storage: &[Read, Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    n: u32,
    rank: u32,
    a: u32,
    b: u32,
    vocab: u32,
    scale: f32,
}

/// The update in memory: `a` (vocab, rank) and `b` (rank, out), of one buffer.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// (vocab, rank)
    pub a: Param<'a>,
    /// (rank, out)
    pub b: Param<'a>,
    /// Rows of `a`.
    pub vocab: usize,
    /// Columns of `a`.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// Records `y += scale · A[tokens[t].id] B`: `tokens` [`Token`] (T), `y` (T, out).
///
/// # Errors
/// Parameters in two buffers.
pub fn lora_embedding(
    r: &mut Recorder,
    update: Update<'_>,
    tokens: &Buffer,
    y: &Tensor,
) -> Result<()> {
    let Update { a, b, vocab, rank, scale } = update;
    if **a.buffer != **b.buffer {
        return Err(Error::invalid("an embedding's update lies in two buffers"));
    }
    let params = Params {
        rows: y.rows(),
        n: y.cols() as u32,
        rank: rank as u32,
        a: a.offset,
        b: b.offset,
        vocab: vocab as u32,
        scale,
    };
    let bindings = [tokens.into(), a.buffer.into(), y.binding()];
    let grid = [Extent::cover(y.cols(), 64), y.per_token(1), ONE];
    r.dispatch(&KERNEL, &[], &params, &bindings, grid)
}

/// The reference of [`lora_embedding`].
pub fn reference(ids: &[u32], a: &[f32], b: &[f32], rank: usize, scale: f32, y: &mut [f32]) {
    let cols = b.len() / rank;
    for (&id, y) in ids.iter().zip(y.chunks_exact_mut(cols)) {
        let row = &a[id as usize * rank..][..rank];
        for (o, y) in y.iter_mut().enumerate() {
            let products = row.iter().zip(b[o..].iter().step_by(cols));
            let sum: f64 = products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            *y = (f64::from(*y) + f64::from(scale) * sum) as f32;
        }
    }
}

/// Compares kernel and reference, the parameters at an odd place.
pub async fn parity(context: &Context, vocab: usize, cols: usize, rank: usize) -> Result<()> {
    const SCALE: f32 = 2.5;
    let ids = [0, vocab as u32 - 1, vocab as u32 / 2];
    let tokens = ids.map(|id| Token { id, ..Default::default() });
    let tokens = context.storage_from("tokens", &tokens)?;
    let (a, b) = (check::noise(1, vocab * rank), check::noise(2, rank * cols));
    let mut expected = check::noise(3, ids.len() * cols);
    let y = Tensor::from(context, cols, &expected)?;
    let parameters = context.storage_from("parameters", &[&[0.0; 3][..], &a, &b].concat())?;
    let param = |offset: usize| Param { buffer: &parameters, offset: offset as u32 };
    let (a_at, b_at) = (param(3), param(3 + a.len()));
    let update = Update { a: a_at, b: b_at, vocab, rank, scale: SCALE };
    check::run(context, ids.len(), |r| lora_embedding(r, update, &tokens, &y))?;
    let actual = context.read(y.buffer(), 0, expected.len()).await?;
    reference(&ids, &a, &b, rank, SCALE, &mut expected);
    check::close("lora_embedding", &actual, &expected, 3e-6 * (rank as f32).sqrt(), 1e-5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference() {
        let context = check::test_context().await;
        for (vocab, cols, rank) in [(1, 1, 1), (5, 45, 3), (64, 576, 8), (7, 64, 19)] {
            parity(&context, vocab, cols, rank).await.unwrap();
        }
    }
}
