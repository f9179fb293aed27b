//! `dX = dY W`: the backward of [`super::matmul`] towards its input. The weights are frozen, so
//! that no `dW` exists.

use super::weight::{BLOCK, Format, Matrix};
use super::{ONE, Rows, Tensor, check, weight};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Context, Extent, Kernel, Recorder, Variant};

macro_rules! kernel {
    ($name:literal, $($part:literal),+) => {
        Kernel {
            name: $name,
            source: &[
                include_str!("step.wgsl"),
                include_str!("eight.wgsl"),
                include_str!("weight.wgsl"),
                include_str!("matmul_transposed_bindings.wgsl"),
                $(include_str!($part)),+
            ],
            storage: &[Read, Read, Read, Write],
        }
    };
}

const TILES: Kernel = kernel!("matmul_transposed_tile", "matmul_transposed.wgsl");
const LOADS: Kernel = kernel!(
    "matmul_transposed_loads",
    "eight_loads.wgsl",
    "matmul_transposed_loads.wgsl",
    "matmul_transposed_rows.wgsl"
);
const BROADCAST: Kernel = kernel!(
    "matmul_transposed_broadcast",
    "spread.wgsl",
    "eight_broadcast.wgsl",
    "matmul_transposed_broadcast.wgsl",
    "matmul_transposed_rows.wgsl"
);
const QUADS: Kernel = kernel!(
    "matmul_transposed_quads",
    "eight_quads.wgsl",
    "matmul_transposed_quads.wgsl",
    "matmul_transposed_rows.wgsl"
);

/// Columns and tokens that a workgroup of `matmul_transposed_rows.wgsl` does.
const GROUP_COLS: usize = 2 * BLOCK;
const GROUP_TOKENS: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    dy_row: u32,
    dx_row: u32,
    in_features: u32,
    dy_cols: u32,
    first_out: u32,
    part_rows: u32,
    accumulate: u32,
    pad: u32,
}

/// Records `dx[t, i] = Σ_o dy[t, o] · w[o, i]`, or `+=` with `accumulate`.
///
/// `dy` (T, out), `w` (out, in), `dx` (T, in); both tensors may be windows.
pub fn matmul_transposed(
    r: &mut Recorder,
    dy: &Tensor,
    w: &Matrix,
    dx: &Tensor,
    accumulate: bool,
) -> Result<()> {
    for (i, part) in w.parts().iter().enumerate() {
        let params = Params {
            rows: dy.rows(),
            dy_row: dy.first_row(),
            dx_row: dx.first_row(),
            in_features: w.cols() as u32,
            dy_cols: dy.cols() as u32,
            first_out: part.first_row as u32,
            part_rows: part.rows as u32,
            accumulate: (accumulate || i > 0).into(),
            pad: 0,
        };
        let [values, scales] = w.planes(part);
        let bindings = [values, scales, dy.binding(), dx.binding()];
        let (kernel, cols, tokens) = match r.context().variants().matmul_transposed {
            Variant::Tile => (&TILES, BLOCK, BLOCK as u32),
            Variant::Loads => (&LOADS, GROUP_COLS, GROUP_TOKENS),
            Variant::Broadcast => (&BROADCAST, GROUP_COLS, GROUP_TOKENS),
            Variant::Quads => (&QUADS, GROUP_COLS, GROUP_TOKENS),
        };
        let grid = [Extent::cover(w.cols(), cols), dy.per_token(tokens), ONE];
        r.dispatch(kernel, &[w.format().constant()], &params, &bindings, grid)?;
    }
    Ok(())
}

/// The reference of [`matmul_transposed`], without accumulation.
pub fn reference(dy: &[f32], w: &[f32], in_features: usize) -> Vec<f32> {
    let outs = w.len() / in_features;
    let column = |dy: &[f32], i: usize| {
        (0..outs).map(|o| f64::from(dy[o]) * f64::from(w[o * in_features + i])).sum::<f64>() as f32
    };
    dy.chunks_exact(outs).flat_map(|dy| (0..in_features).map(move |i| column(dy, i))).collect()
}

/// Compares kernel and reference.
pub async fn parity(
    context: &Context,
    format: Format,
    tokens: usize,
    (outs, ins): (usize, usize),
) -> Result<()> {
    let (matrix, weights) = weight::noise_matrix(context, format, outs, ins)?;
    let dy = check::noise(1, tokens * outs);
    let before = check::noise(2, tokens * ins);
    let dy_gpu = Tensor::from(context, outs, &dy)?;
    let dx = Tensor::new(context, tokens, ins)?;
    let sum = Tensor::from(context, ins, &before)?;
    check::run(context, tokens, |r| {
        matmul_transposed(r, &dy_gpu, &matrix, &dx, false)?;
        matmul_transposed(r, &dy_gpu, &matrix, &sum, true)
    })?;
    let expected = reference(&dy, &weights, ins);
    let summed: Vec<f32> = expected.iter().zip(&before).map(|(a, b)| a + b).collect();
    for (tensor, expected) in [(dx, expected), (sum, summed)] {
        let actual = context.read(tensor.buffer(), 0, tokens * ins).await?;
        check::close("matmul_transposed", &actual, &expected, 2e-7 * outs as f32 + 1e-6, 1e-5)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference_in_every_format() {
        for context in check::test_contexts().await {
            for format in Format::ALL {
                for tokens in [1, 33] {
                    for shape in [(1, 32), (9, 45), (65, 100), (40, 576)] {
                        parity(&context, format, tokens, shape).await.unwrap();
                    }
                }
            }
        }
    }

    #[async_test]
    async fn parts_add_up() {
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..Default::default() };
        let options = crate::gpu::ContextOptions { limits: Some(limits), ..Default::default() };
        let context = Context::new(&options).await.unwrap();
        parity(&context, Format::Q8, 3, (300, 45)).await.unwrap();
    }
}
