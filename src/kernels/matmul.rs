//! `Y = X Wᵀ + bias + residual` with a weight matrix in any format: for a single token the kernel
//! of [`matvec`](super::matvec), which is bound by reading W, for many `matmul.wgsl`, which is bound
//! by arithmetic, or on software adapters `matmul_rows.wgsl`.

use super::matvec::{Extras, matvec};
use super::weight::{BLOCK, Format, Matrix};
use super::{ONE, Rows, Tensor, check, weight};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder, Variant};

macro_rules! kernel {
    ($name:literal, $($part:literal),+) => {
        Kernel {
            name: $name,
            source: &[
                include_str!("step.wgsl"),
                include_str!("eight.wgsl"),
                include_str!("weight.wgsl"),
                include_str!("matmul_bindings.wgsl"),
                $(include_str!($part)),+
            ],
            storage: &[Read, Read, Read, Read, Read, Write],
        }
    };
}

const TILES: Kernel = kernel!("matmul_tile", "matmul.wgsl");
const LOADS: Kernel =
    kernel!("matmul_loads", "matmul_thread.wgsl", "eight_loads.wgsl", "matmul_rows.wgsl");
const BROADCAST: Kernel = kernel!(
    "matmul_broadcast",
    "matmul_thread.wgsl",
    "spread.wgsl",
    "eight_broadcast.wgsl",
    "matmul_rows.wgsl"
);
const QUADS: Kernel = kernel!(
    "matmul_quads",
    "matmul_thread.wgsl",
    "eight_loads.wgsl",
    "exchange_quads.wgsl",
    "eight_products.wgsl",
    "matmul_quads.wgsl"
);

/// Tokens and rows of W that a workgroup of `matmul.wgsl` does.
const TILE: usize = BLOCK;
/// Rows of W and tokens that a workgroup of `matmul_rows.wgsl` does.
const GROUP_ROWS: usize = 64;
const GROUP_TOKENS: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    x_row: u32,
    y_row: u32,
    in_features: u32,
    y_cols: u32,
    first_out: u32,
    part_rows: u32,
    has_bias: u32,
    has_residual: u32,
}

/// Records `y[t, o] = Σ_i x[t, i] · w[o, i] + bias[o] + residual[t, o]`.
///
/// `x` (T, in), `w` (out, in), `bias` (out), `residual` and `y` (T, out), or both with more columns,
/// which are left alone. `x` and `y` may be
/// windows of larger tensors; T is what they have in use, and a `y` with room for one token takes
/// the kernel made for one.
pub fn matmul(
    r: &mut Recorder,
    x: &Tensor,
    w: &Matrix,
    bias: Option<&Buffer>,
    residual: Option<&Tensor>,
    y: &Tensor,
) -> Result<()> {
    // It reads x in fours, so that a window has to begin at one.
    if y.capacity() == 1 && (x.first_row() as usize * w.cols()).is_multiple_of(4) {
        return matvec(r, x, w, Extras { bias, residual, ..Extras::default() }, y);
    }
    for part in w.parts() {
        let params = Params {
            rows: y.rows(),
            x_row: x.first_row(),
            y_row: y.first_row(),
            in_features: w.cols() as u32,
            y_cols: y.cols() as u32,
            first_out: part.first_row as u32,
            part_rows: part.rows as u32,
            has_bias: bias.is_some().into(),
            has_residual: residual.is_some().into(),
        };
        let [values, scales] = w.planes(part);
        let bindings = [
            values,
            scales,
            x.binding(),
            // Unused bindings hold what is bound as read-only anyway.
            bias.map_or(x.binding(), Into::into),
            residual.map_or(x.binding(), Tensor::binding),
            y.binding(),
        ];
        let (kernel, rows, tokens) = match r.context().variants().matmul {
            Variant::Tile => (&TILES, TILE, TILE as u32),
            Variant::Loads => (&LOADS, GROUP_ROWS, GROUP_TOKENS),
            Variant::Broadcast => (&BROADCAST, GROUP_ROWS, GROUP_TOKENS),
            Variant::Quads => (&QUADS, GROUP_ROWS, GROUP_TOKENS),
        };
        let grid = [Extent::cover(part.rows, rows), y.per_token(tokens), ONE];
        r.dispatch(kernel, &[w.format().constant()], &params, &bindings, grid)?;
    }
    Ok(())
}

/// The reference of [`matmul`]: `x` (T, in), `w` (out, in).
pub fn reference(
    x: &[f32],
    w: &[f32],
    in_features: usize,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let outs = w.len() / in_features;
    let mut y = Vec::with_capacity(x.len() / in_features * outs);
    for row in x.chunks_exact(in_features) {
        for (o, weights) in w.chunks_exact(in_features).enumerate() {
            let dot: f64 =
                row.iter().zip(weights).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let more = bias.map_or(0.0, |b| f64::from(b[o]))
                + residual.map_or(0.0, |r| f64::from(r[y.len()]));
            y.push((dot + more) as f32);
        }
    }
    y
}

/// Compares kernel and reference on `tokens` × `ins` → `outs`, with bias and residual.
pub async fn parity(
    context: &Context,
    format: Format,
    tokens: usize,
    (outs, ins): (usize, usize),
) -> Result<()> {
    let (matrix, weights) = weight::noise_matrix(context, format, outs, ins)?;
    let x = check::noise(1, tokens * ins);
    let (bias, residual) = (check::noise(2, outs), check::noise(3, tokens * outs));
    let x_gpu = Tensor::from(context, ins, &x)?;
    let bias_gpu = context.storage_from("bias", &bias)?;
    let residual_gpu = Tensor::from(context, outs, &residual)?;
    let (with, without) =
        (Tensor::new(context, tokens, outs)?, Tensor::new(context, tokens, outs)?);
    check::run(context, tokens, |r| {
        matmul(r, &x_gpu, &matrix, Some(&bias_gpu), Some(&residual_gpu), &with)?;
        matmul(r, &x_gpu, &matrix, None, None, &without)
    })?;
    for (y, bias, residual) in [(with, Some(&bias[..]), Some(&residual[..])), (without, None, None)]
    {
        let actual = context.read(y.buffer(), 0, tokens * outs).await?;
        let expected = reference(&x, &weights, ins, bias, residual);
        // Sums of `ins` products of size 1 in f32.
        check::close("matmul", &actual, &expected, 2e-7 * ins as f32, 1e-5)?;
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
                for tokens in [1, 2, 33] {
                    for shape in [(1, 32), (9, 45), (65, 100), (40, 576)] {
                        parity(&context, format, tokens, shape).await.unwrap();
                    }
                }
            }
        }
    }

    #[async_test]
    async fn a_matrix_in_parts_gives_the_same_product() {
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..Default::default() };
        let options = crate::gpu::ContextOptions { limits: Some(limits), ..Default::default() };
        let context = Context::new(&options).await.unwrap();
        let matrix = Matrix::new(&context, Format::Q8, 300, 45).unwrap();
        assert!(matrix.parts().len() > 1);
        for tokens in [1, 3] {
            parity(&context, Format::Q8, tokens, (300, 45)).await.unwrap();
        }
    }

    #[async_test]
    async fn windows_read_and_write_their_own_rows() {
        let context = check::test_context().await;
        let (matrix, weights) = weight::noise_matrix(&context, Format::F32, 3, 4).unwrap();
        let x = check::noise(1, 5 * 4);
        let x_gpu = Tensor::from(&context, 4, &x).unwrap();
        let y = Tensor::new(&context, 5, 3).unwrap();
        check::run(&context, 5, |r| {
            matmul(r, &x_gpu.window(2, 2), &matrix, None, None, &y.window(2, 2))
        })
        .unwrap();
        let actual: Vec<f32> = context.read(y.buffer(), 0, 15).await.unwrap();
        let expected = reference(&x[8..16], &weights, 4, None, None);
        check::close("window", &actual[6..12], &expected, 1e-6, 1e-6).unwrap();
        assert!(actual[..6].iter().chain(&actual[12..]).all(|&v| v == 0.0));
    }
}
