//! Elementwise sum.

use super::{Rows, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Context, Extent, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "add",
    source: &[include_str!("step.wgsl"), include_str!("add.wgsl")],
    storage: &[Read, Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    pad: u32,
}

/// Records `out = a + b`, all (T, cols); `out` is other memory than `a` and `b`.
pub fn add(r: &mut Recorder, a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    let params = Params { rows: a.rows(), cols: a.cols() as u32, pad: 0 };
    let bindings = [a.binding(), b.binding(), out.binding()];
    let grid = [Extent::cover(a.cols(), 64), a.per_token(1), super::ONE];
    r.dispatch(&KERNEL, &[], &params, &bindings, grid)
}

/// The reference of [`add`].
pub fn reference(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Compares kernel and reference on `tokens` rows of `cols`.
pub async fn parity(context: &Context, tokens: usize, cols: usize) -> Result<()> {
    let (a, b) = (check::noise(1, tokens * cols), check::noise(2, tokens * cols));
    let (a_gpu, b_gpu) = (Tensor::from(context, cols, &a)?, Tensor::from(context, cols, &b)?);
    let out = Tensor::new(context, tokens, cols)?;
    check::run(context, tokens, |r| add(r, &a_gpu, &b_gpu, &out))?;
    let actual = context.read(out.buffer(), 0, tokens * cols).await?;
    check::close("add", &actual, &reference(&a, &b), 1e-7, 1e-7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference() {
        let context = check::test_context().await;
        for (tokens, cols) in [(1, 1), (3, 65), (5, 576)] {
            parity(&context, tokens, cols).await.unwrap();
        }
    }
}
