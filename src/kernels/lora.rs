//! The low-rank half of an adapted linear layer, `y += s · (x A) B`, and its backward.
//!
//! With `H = X A`: `dH = s dY Bᵀ`, `dA = Xᵀ dH`, `dB = s Hᵀ dY`, `dX += dH Aᵀ`. Three kernels do
//! all six products, as A and Bᵀ differ only in their strides. `A` is (in, rank), `B` (rank, out),
//! row-major as in MLX.

use super::{ONE, Rows, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder};

const DOWN: Kernel = Kernel {
    name: "lora_down",
    source: &[include_str!("step.wgsl"), include_str!("lora_down.wgsl")],
    storage: &[Read, Read, Write],
};
const UP: Kernel = Kernel {
    name: "lora_up",
    source: &[include_str!("step.wgsl"), include_str!("lora_up.wgsl")],
    storage: &[Read, Read, Write],
};
const GRADIENT: Kernel = Kernel {
    name: "lora_gradient",
    source: &[include_str!("step.wgsl"), include_str!("lora_gradient.wgsl")],
    storage: &[Read, Read, Write],
};

/// Columns a workgroup of `lora_down.wgsl` and a thread of `lora_gradient.wgsl` do.
const COLUMNS: usize = 8;
/// Tokens that a workgroup of `lora_down.wgsl` and of `lora_up.wgsl` does, and outputs of the latter.
const TOKENS: u32 = 4;
const UP_OUTS: usize = 256;

/// A parameter or its gradient: a place in a larger buffer.
#[derive(Debug, Clone, Copy)]
pub struct Param<'a> {
    /// The buffer, f32.
    pub buffer: &'a Buffer,
    /// The first of its values in the buffer.
    pub offset: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ProductParams {
    rows: Rows,
    wide_row: u32,
    n: u32,
    rank: u32,
    offset: u32,
    strides: [u32; 2],
    scale: f32,
    accumulate: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GradientParams {
    rows: Rows,
    n: u32,
    rank: u32,
    offset: u32,
    strides: [u32; 2],
    scale: f32,
}

/// Records `h = x A`: `x` (T, in), `a` (in, rank), `h` (T, rank).
pub fn lora_down(
    r: &mut Recorder,
    x: &Tensor,
    a: Param<'_>,
    rank: usize,
    h: &Tensor,
) -> Result<()> {
    down(r, x, a, [rank as u32, 1], 1.0, h)
}

/// Records `dh = scale · dy Bᵀ`: `dy` (T, out), `b` (rank, out), `dh` (T, rank).
pub fn lora_up_backward(
    r: &mut Recorder,
    dy: &Tensor,
    b: Param<'_>,
    scale: f32,
    dh: &Tensor,
) -> Result<()> {
    down(r, dy, b, [1, dy.cols() as u32], scale, dh)
}

fn down(
    r: &mut Recorder,
    x: &Tensor,
    m: Param<'_>,
    strides: [u32; 2],
    scale: f32,
    out: &Tensor,
) -> Result<()> {
    let params = product_params(x, out.cols(), m, strides, scale);
    let bindings = [x.binding(), m.buffer.into(), out.binding()];
    let grid = [Extent::cover(out.cols(), COLUMNS), x.per_token(TOKENS), ONE];
    r.dispatch(&DOWN, &[], &params, &bindings, grid)
}

/// Records `y += scale · h B`: `h` (T, rank), `b` (rank, out), `y` (T, out).
pub fn lora_up_add(
    r: &mut Recorder,
    h: &Tensor,
    b: Param<'_>,
    scale: f32,
    y: &Tensor,
) -> Result<()> {
    up(r, h, b, [y.cols() as u32, 1], scale, y, true)
}

/// Records `dx = dh Aᵀ`, or `dx += …` with `accumulate`: `dh` (T, rank), `a` (in, rank), `dx` (T, in).
pub fn lora_backward_x(
    r: &mut Recorder,
    dh: &Tensor,
    a: Param<'_>,
    dx: &Tensor,
    accumulate: bool,
) -> Result<()> {
    up(r, dh, a, [1, dh.cols() as u32], 1.0, dx, accumulate)
}

fn up(
    r: &mut Recorder,
    h: &Tensor,
    m: Param<'_>,
    strides: [u32; 2],
    scale: f32,
    y: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let accumulate = accumulate.into();
    let params = ProductParams { accumulate, ..product_params(y, h.cols(), m, strides, scale) };
    let bindings = [h.binding(), m.buffer.into(), y.binding()];
    let grid = [Extent::cover(y.cols(), UP_OUTS), y.per_token(TOKENS), ONE];
    r.dispatch(&UP, &[], &params, &bindings, grid)
}

fn product_params(
    wide: &Tensor,
    rank: usize,
    m: Param<'_>,
    strides: [u32; 2],
    scale: f32,
) -> ProductParams {
    ProductParams {
        rows: wide.rows(),
        wide_row: wide.first_row(),
        n: wide.cols() as u32,
        rank: rank as u32,
        offset: m.offset,
        strides,
        scale,
        accumulate: 0,
    }
}

/// Records `dA += Xᵀ dH`: `x` (T, in), `dh` (T, rank), `da` (in, rank).
pub fn lora_backward_a(r: &mut Recorder, x: &Tensor, dh: &Tensor, da: Param<'_>) -> Result<()> {
    gradient(r, x, dh, [dh.cols() as u32, 1], 1.0, da)
}

/// Records `dB += scale · Hᵀ dY`: `h` (T, rank), `dy` (T, out), `db` (rank, out).
pub fn lora_backward_b(
    r: &mut Recorder,
    h: &Tensor,
    dy: &Tensor,
    scale: f32,
    db: Param<'_>,
) -> Result<()> {
    gradient(r, dy, h, [1, dy.cols() as u32], scale, db)
}

fn gradient(
    r: &mut Recorder,
    wide: &Tensor,
    narrow: &Tensor,
    strides: [u32; 2],
    scale: f32,
    into: Param<'_>,
) -> Result<()> {
    let params = GradientParams {
        rows: wide.rows(),
        n: wide.cols() as u32,
        rank: narrow.cols() as u32,
        offset: into.offset,
        strides,
        scale,
    };
    let bindings = [wide.binding(), narrow.binding(), into.buffer.into()];
    let grid = [Extent::cover(wide.cols(), 64), Extent::cover(narrow.cols(), COLUMNS), ONE];
    r.dispatch(&GRADIENT, &[], &params, &bindings, grid)
}

/// The reference of all six products: row-major `a` (n, k) times `b` (k, m).
pub fn reference(a: &[f32], b: &[f32], k: usize, scale: f32) -> Vec<f32> {
    let m = b.len() / k;
    let cell = |row: &[f32], j: usize| {
        let sum: f64 = row.iter().zip(b[j..].iter().step_by(m)).map(product).sum();
        (f64::from(scale) * sum) as f32
    };
    a.chunks_exact(k).flat_map(|row| (0..m).map(move |j| cell(row, j))).collect()
}

fn product((&a, &b): (&f32, &f32)) -> f64 {
    f64::from(a) * f64::from(b)
}

/// The transpose of row-major `values` (rows, cols).
pub fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| values[j..].iter().step_by(cols).copied()).collect()
}

/// Compares the six products with the reference, parameters and gradients at odd places.
pub async fn parity(
    context: &Context,
    tokens: usize,
    (ins, outs): (usize, usize),
    rank: usize,
) -> Result<()> {
    const SCALE: f32 = 2.5;
    let (x, dy) = (check::noise(1, tokens * ins), check::noise(2, tokens * outs));
    let (a, b) = (check::noise(3, ins * rank), check::noise(4, rank * outs));
    let (y, dx) = (check::noise(5, tokens * outs), check::noise(6, tokens * ins));
    let gradients = check::noise(7, 3 + a.len() + b.len());
    let parameters: Vec<f32> = [&[0.0; 3][..], &a, &b].concat();

    let parameters = context.storage_from("parameters", &parameters)?;
    let gradients_gpu = context.storage_from("gradients", &gradients)?;
    let (a_at, b_at) = (3, 3 + a.len() as u32);
    let param = |offset| Param { buffer: &parameters, offset };
    let into = |offset| Param { buffer: &gradients_gpu, offset };
    let (x_gpu, dy_gpu) = (Tensor::from(context, ins, &x)?, Tensor::from(context, outs, &dy)?);
    let (y_gpu, dx_gpu) = (Tensor::from(context, outs, &y)?, Tensor::from(context, ins, &dx)?);
    let fresh_gpu = Tensor::from(context, ins, &x)?;
    let (h_gpu, dh_gpu) =
        (Tensor::new(context, tokens, rank)?, Tensor::new(context, tokens, rank)?);
    check::run(context, tokens, |r| {
        lora_down(r, &x_gpu, param(a_at), rank, &h_gpu)?;
        lora_up_add(r, &h_gpu, param(b_at), SCALE, &y_gpu)?;
        lora_up_backward(r, &dy_gpu, param(b_at), SCALE, &dh_gpu)?;
        lora_backward_x(r, &dh_gpu, param(a_at), &dx_gpu, true)?;
        lora_backward_x(r, &dh_gpu, param(a_at), &fresh_gpu, false)?;
        lora_backward_a(r, &x_gpu, &dh_gpu, into(a_at))?;
        lora_backward_b(r, &h_gpu, &dy_gpu, SCALE, into(b_at))
    })?;

    let h = reference(&x, &a, ins, 1.0);
    let dh = reference(&dy, &transposed(&b, outs), outs, SCALE);
    let sum = |old: &[f32], new: Vec<f32>| -> Vec<f32> {
        old.iter().zip(new).map(|(old, new)| old + new).collect()
    };
    let da = reference(&transposed(&x, ins), &dh, tokens, 1.0);
    let db = reference(&transposed(&h, rank), &dy, tokens, SCALE);
    let expected_gradients =
        [gradients[..3].to_vec(), sum(&gradients[3..], [da, db].concat())].concat();
    let atol = 3e-6 * (ins.max(outs).max(tokens) as f32).sqrt() * (rank as f32).sqrt();
    for (what, buffer, expected) in [
        ("lora_down", h_gpu.buffer(), h.clone()),
        ("lora_up", y_gpu.buffer(), sum(&y, reference(&h, &b, rank, SCALE))),
        ("lora_down of dY", dh_gpu.buffer(), dh.clone()),
        (
            "lora_up of dX",
            dx_gpu.buffer(),
            sum(&dx, reference(&dh, &transposed(&a, rank), rank, 1.0)),
        ),
        (
            "lora_up, without a sum",
            fresh_gpu.buffer(),
            reference(&dh, &transposed(&a, rank), rank, 1.0),
        ),
        ("lora_gradient", &gradients_gpu, expected_gradients),
    ] {
        let actual = context.read(buffer, 0, expected.len()).await?;
        check::close(what, &actual, &expected, atol, 1e-5)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn all_six_products_match_the_reference() {
        let context = check::test_context().await;
        for (tokens, shape, rank) in
            [(1, (1, 1), 1), (3, (65, 33), 5), (7, (64, 128), 8), (33, (100, 70), 19)]
        {
            parity(&context, tokens, shape, rank).await.unwrap();
        }
    }
}
