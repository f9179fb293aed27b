//! `dW += dYᵀ X`: the backward of [`super::matmul`] towards its weights, where they are trained.

use super::weight::{BLOCK, Format, Matrix};
use super::{Rows, Tensor, check};
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Context, Extent, Kernel, Lanes, Recorder};
use crate::{Error, Result};

macro_rules! kernel {
    ($name:literal, $($part:literal),+) => {
        Kernel {
            name: $name,
            source: &[
                include_str!("step.wgsl"),
                include_str!("weight_gradient_bindings.wgsl"),
                $(include_str!($part)),+
            ],
            storage: &[Read, Read, Write],
        }
    };
}

const TILES: Kernel = kernel!("weight_gradient_tile", "weight_gradient.wgsl");
const BROADCAST: Kernel = kernel!(
    "weight_gradient_broadcast",
    "eight.wgsl",
    "exchange_broadcast.wgsl",
    "eight_products.wgsl",
    "weight_gradient_rows.wgsl"
);
const QUADS: Kernel = kernel!(
    "weight_gradient_quads",
    "eight.wgsl",
    "exchange_quads.wgsl",
    "eight_products.wgsl",
    "weight_gradient_rows.wgsl"
);

/// Side of the tile that a workgroup of `weight_gradient.wgsl` does.
const TILE: usize = 32;
/// Columns that a lane of `weight_gradient_rows.wgsl` does, and rows.
const LANE_COLS: usize = 8;
const GROUP_ROWS: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    x_row: u32,
    dy_row: u32,
    in_features: u32,
    dy_cols: u32,
    first_out: u32,
    part_rows: u32,
    stride: u32,
    pad: [u32; 3],
}

/// Records `dw[o, i] += Σ_t dy[t, o] · x[t, i]`.
///
/// `x` (T, in) and `dy` (T, out or more) may be windows; `dw` (out, in) is [`Format::F32`].
pub fn weight_gradient(r: &mut Recorder, x: &Tensor, dy: &Tensor, dw: &Matrix) -> Result<()> {
    if dw.format() != Format::F32 {
        return Err(Error::invalid("gradients are added up in f32"));
    }
    for part in dw.parts() {
        let params = Params {
            rows: dy.rows(),
            x_row: x.first_row(),
            dy_row: dy.first_row(),
            in_features: dw.cols() as u32,
            dy_cols: dy.cols() as u32,
            first_out: part.first_row as u32,
            part_rows: part.rows as u32,
            stride: dw.cols().next_multiple_of(BLOCK) as u32,
            pad: [0; 3],
        };
        let [values, _] = dw.planes(part);
        let bindings = [x.binding(), dy.binding(), values];
        let of_fours = [dw.cols(), dy.cols(), part.first_row].iter().all(|n| n.is_multiple_of(4));
        let lanes = r.context().lanes().filter(|_| of_fours);
        let kernel = match lanes {
            None => &TILES,
            Some(Lanes::Four) => &QUADS,
            Some(Lanes::Eight) => &BROADCAST,
        };
        let (cols, rows) =
            lanes.map_or((TILE, TILE), |lanes| (lanes.count() as usize * LANE_COLS, GROUP_ROWS));
        // One layer of workgroups, or none where the replay has none of these tokens.
        let any = dy.per_token(dy.rows().max.max(1));
        let grid = [Extent::cover(dw.cols(), cols), Extent::cover(part.rows, rows), any];
        r.dispatch(kernel, &[], &params, &bindings, grid)?;
    }
    Ok(())
}

/// The reference of [`weight_gradient`] onto zeros: (out, in).
pub fn reference(x: &[f32], dy: &[f32], tokens: usize) -> Vec<f32> {
    let (ins, outs) = (x.len() / tokens, dy.len() / tokens);
    let one = |o: usize, i: usize| {
        let product = |t: usize| f64::from(dy[t * outs + o]) * f64::from(x[t * ins + i]);
        (0..tokens).map(product).sum::<f64>() as f32
    };
    (0..outs).flat_map(|o| (0..ins).map(move |i| one(o, i))).collect()
}

/// Compares kernel and reference on `tokens` tokens, whole and, from token 1 on, as windows.
pub async fn parity(context: &Context, tokens: usize, (outs, ins): (usize, usize)) -> Result<()> {
    let (x, dy) = (check::noise(1, tokens * ins), check::noise(2, tokens * outs));
    let before = check::noise(3, outs * ins);
    // With columns that are nobody's.
    let stride = outs + 4;
    let padded: Vec<f32> =
        dy.chunks_exact(outs).flat_map(|row| [row, &[9.0; 4]].concat()).collect();
    let (x_gpu, dy_gpu) =
        (Tensor::from(context, ins, &x)?, Tensor::from(context, stride, &padded)?);
    let dw = Matrix::from_f32(context, Format::F32, ins, &before)?;
    let last = Matrix::from_f32(context, Format::F32, ins, &vec![0.0; outs * ins])?;
    check::run(context, tokens, |r| {
        weight_gradient(r, &x_gpu, &dy_gpu, &dw)?;
        let (x, dy) = (x_gpu.window(1, tokens), dy_gpu.window(1, tokens));
        weight_gradient(r, &x, &dy, &last)
    })?;
    let expected = reference(&x, &dy, tokens);
    let summed: Vec<f32> = expected.iter().zip(&before).map(|(a, b)| a + b).collect();
    let rest = match tokens {
        1 => vec![0.0; outs * ins],
        _ => reference(&x[ins..], &dy[outs..], tokens - 1),
    };
    for (matrix, expected) in [(dw, summed), (last, rest)] {
        let actual = matrix.read_f32(context).await?;
        check::close("weight_gradient", &actual, &expected, 2e-7 * tokens as f32 + 1e-6, 1e-5)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference() {
        for context in check::test_contexts().await {
            for (tokens, shape) in [
                (1, (1, 1)),
                (3, (9, 45)),
                (33, (65, 100)),
                (70, (40, 576)),
                (9, (4, 4)),
                (12, (100, 76)),
            ] {
                parity(&context, tokens, shape).await.unwrap();
            }
        }
    }

    #[async_test]
    async fn parts_and_stacks_have_gradients_of_their_own() {
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..Default::default() };
        let options = crate::gpu::ContextOptions { limits: Some(limits), ..Default::default() };
        let small = Context::new(&options).await.unwrap();
        parity(&small, 3, (300, 45)).await.unwrap();

        let context = check::test_context().await;
        let stack = Matrix::stacked(&context, Format::F32, &[5, 9], 45).unwrap().unwrap();
        let x = check::noise(1, 2 * 45);
        let x_gpu = Tensor::from(&context, 45, &x).unwrap();
        for (dw, outs) in stack.iter().zip([5, 9]) {
            let dy = check::noise(2, 2 * outs);
            let dy_gpu = Tensor::from(&context, outs, &dy).unwrap();
            check::run(&context, 2, |r| weight_gradient(r, &x_gpu, &dy_gpu, dw)).unwrap();
        }
        for (dw, outs) in stack.iter().zip([5, 9]) {
            let expected = reference(&x, &check::noise(2, 2 * outs), 2);
            let actual = dw.read_f32(&context).await.unwrap();
            check::close("stacked", &actual, &expected, 1e-6, 1e-5).unwrap();
        }
    }
}
