//! Writing keys or values of new tokens into their rows of a cache.

use super::{Rows, Tensor, Token, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "append",
    source: &[include_str!("step.wgsl"), include_str!("token.wgsl"), include_str!("append.wgsl")],
    storage: &[Read, Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    pad: u32,
}

/// Records `cache[tokens[t].last_key, :] = x[t, :]`.
///
/// `x` (T, cols); `tokens` one [`Token`] for each of the replay's tokens; `cache` (capacity,
/// cols), which the caller has made large enough for every `last_key`.
pub fn append(r: &mut Recorder, x: &Tensor, tokens: &Buffer, cache: &Buffer) -> Result<()> {
    let params = Params { rows: x.rows(), cols: x.cols() as u32, pad: 0 };
    let bindings = [tokens.into(), x.binding(), cache.into()];
    let grid = [Extent::cover(x.cols(), 64), x.per_token(1), super::ONE];
    r.dispatch(&KERNEL, &[], &params, &bindings, grid)
}

/// The reference of [`append`]: `last_keys` holds the cache row of each row of `x`.
pub fn reference(x: &[f32], last_keys: &[u32], cache: &mut [f32]) {
    let cols = x.len() / last_keys.len();
    for (row, &key) in x.chunks_exact(cols).zip(last_keys) {
        cache[key as usize * cols..][..cols].copy_from_slice(row);
    }
}

/// Compares kernel and reference on `tokens` rows of `cols`, written from cache row 2 on.
pub async fn parity(context: &Context, tokens: usize, cols: usize) -> Result<()> {
    let x = check::noise(1, tokens * cols);
    let mut cache = check::noise(2, (tokens + 5) * cols);
    let list: Vec<Token> =
        (0..tokens as u32).map(|t| Token { last_key: t + 2, ..Token::default() }).collect();
    let x_gpu = Tensor::from(context, cols, &x)?;
    let tokens_gpu = context.storage_from("tokens", &list)?;
    let cache_gpu = context.storage_from("cache", &cache)?;
    check::run(context, tokens, |r| append(r, &x_gpu, &tokens_gpu, &cache_gpu))?;
    let last_keys: Vec<u32> = list.iter().map(|t| t.last_key).collect();
    reference(&x, &last_keys, &mut cache);
    let actual = context.read(&cache_gpu, 0, cache.len()).await?;
    check::close("append", &actual, &cache, 0.0, 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference() {
        let context = check::test_context().await;
        for (tokens, cols) in [(1, 8), (3, 65), (5, 192)] {
            parity(&context, tokens, cols).await.unwrap();
        }
    }
}
