//! Writing keys or values of new tokens into their rows of a cache.

use super::kv::KvType;
use super::{Rows, Tensor, Token, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder};

macro_rules! kernel {
    ($name:literal, $kv:literal) => {
        Kernel {
            name: $name,
            source: &[
                include_str!("step.wgsl"),
                include_str!("token.wgsl"),
                include_str!("eight.wgsl"),
                include_str!($kv),
                include_str!("append.wgsl"),
            ],
            storage: &[Read, Read, Write],
        }
    };
}

const F32: Kernel = kernel!("append_f32", "kv_f32.wgsl");
const F16: Kernel = kernel!("append_f16", "kv_f16.wgsl");

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    fours: u32,
    pad: u32,
}

/// Records `cache[tokens[t].last_key, :] = x[t, :]`.
///
/// `x` (T, cols), where cols is a multiple of 4; `tokens` one [`Token`] for each of the replay's
/// tokens; `cache` (capacity, cols) of type `kv`, which the caller has made large enough for every
/// `last_key`.
pub fn append(
    r: &mut Recorder,
    x: &Tensor,
    tokens: &Buffer,
    cache: &Buffer,
    kv: KvType,
) -> Result<()> {
    let fours = x.cols() / 4;
    let params = Params { rows: x.rows(), fours: fours as u32, pad: 0 };
    let bindings = [tokens.into(), x.binding(), cache.into()];
    let grid = [Extent::cover(fours, 64), x.per_token(1), super::ONE];
    let kernel = match kv {
        KvType::F32 => &F32,
        KvType::F16 => &F16,
    };
    r.dispatch(kernel, &[], &params, &bindings, grid)
}

/// The reference of [`append`]: `last_keys` holds the cache row of each row of `x`.
pub fn reference(x: &[f32], last_keys: &[u32], cache: &mut [f32]) {
    let cols = x.len() / last_keys.len();
    for (row, &key) in x.chunks_exact(cols).zip(last_keys) {
        cache[key as usize * cols..][..cols].copy_from_slice(row);
    }
}

/// Compares kernel and reference on `tokens` rows of `cols`, written from cache row 2 on.
pub async fn parity(context: &Context, tokens: usize, cols: usize, kv: KvType) -> Result<()> {
    let mut x = check::noise(1, tokens * cols);
    if kv == KvType::F16 {
        // What the type does not hold becomes its largest number.
        x[0] = 1e6;
    }
    let mut cache = check::noise(2, (tokens + 5) * cols);
    let list: Vec<Token> =
        (0..tokens as u32).map(|t| Token { last_key: t + 2, ..Token::default() }).collect();
    let x_gpu = Tensor::from(context, cols, &x)?;
    let tokens_gpu = context.storage_from("tokens", &list)?;
    let cache_gpu = context.storage_from("cache", &kv.pack(&cache))?;
    check::run(context, tokens, |r| append(r, &x_gpu, &tokens_gpu, &cache_gpu, kv))?;
    let last_keys: Vec<u32> = list.iter().map(|t| t.last_key).collect();
    if kv == KvType::F16 {
        x[0] = 65504.0;
    }
    reference(&x, &last_keys, &mut cache);
    let bytes = context.read(&cache_gpu, 0, cache.len() * kv.bytes()).await?;
    // A device may round either way.
    let rounding = if kv == KvType::F16 { 1e-3 } else { 1e-9 };
    check::close("append", &kv.unpack(&bytes), &cache, rounding * 1e-4, rounding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference() {
        let context = check::test_context().await;
        for (tokens, cols) in [(1, 8), (3, 68), (5, 192)] {
            for kv in [KvType::F32, KvType::F16] {
                parity(&context, tokens, cols, kv).await.unwrap();
            }
        }
    }
}
