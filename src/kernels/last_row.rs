//! Takes the last token's row: after a prefill only that token's logits are wanted.

use super::{ONE, Rows, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Context, Extent, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "last_row",
    source: &[include_str!("step.wgsl"), include_str!("last_row.wgsl")],
    storage: &[Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    pad: u32,
}

/// Records `y[0, :] = x[T − 1, :]`, where T is the replay's number of tokens.
///
/// `x` (T, cols), `y` (1, cols).
pub fn last_row(r: &mut Recorder, x: &Tensor, y: &Tensor) -> Result<()> {
    let params = Params { rows: x.rows(), cols: x.cols() as u32, pad: 0 };
    let grid = [Extent::cover(x.cols(), 64), ONE, ONE];
    r.dispatch(&KERNEL, &[], &params, &[x.binding(), y.binding()], grid)
}

/// Compares with the last of `tokens` rows in a tensor with room for more.
pub async fn parity(context: &Context, tokens: usize, cols: usize) -> Result<()> {
    let x = check::noise(1, (tokens + 2) * cols);
    let x_gpu = Tensor::from(context, cols, &x)?;
    let y = Tensor::new(context, 1, cols)?;
    check::run(context, tokens, |r| last_row(r, &x_gpu, &y))?;
    let actual = context.read(y.buffer(), 0, cols).await?;
    check::close("last_row", &actual, &x[(tokens - 1) * cols..tokens * cols], 0.0, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn takes_the_last_row_in_use() {
        let context = check::test_context().await;
        for (tokens, cols) in [(1, 5), (3, 65)] {
            parity(&context, tokens, cols).await.unwrap();
        }
    }
}
