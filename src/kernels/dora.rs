//! What makes a LoRA a DoRA (Liu et al., 2024): each row of the updated weight is scaled to a length
//! that is learnt.
//!
//! With `Z = X (W + scale · (A B)ᵀ)ᵀ`: `Y = Z · m / ‖W + scale · (A B)ᵀ‖`, row by row of W. The lengths
//! are a constant to the backward (section 4.3 there): `dZ = dY · m / length` by the same kernel, and
//! `dm = Σ_t dY Z / length` is [`product_gradient`].

use super::fuse::Update;
use super::lora::Param;
use super::vector_gradient::product_gradient;
use super::weight::{Format, Matrix};
use super::{ONE, Rows, Tensor, check, weight};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder, Variant};

const LENGTHS: Kernel = Kernel {
    name: "dora_lengths",
    source: &[
        include_str!("step.wgsl"),
        include_str!("eight.wgsl"),
        include_str!("weight.wgsl"),
        include_str!("dora_lengths.wgsl"),
    ],
    storage: &[Read, Read, Read, Write],
};
const SCALE: Kernel = Kernel {
    name: "dora_scale",
    source: &[include_str!("step.wgsl"), include_str!("dora_scale.wgsl")],
    storage: &[Read, Read, Read, Read, Read, Write],
};

/// Rows of W that a workgroup of `dora_lengths.wgsl` does.
const ROWS: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LengthsParams {
    in_features: u32,
    first_out: u32,
    outs: u32,
    rank: u32,
    a: u32,
    b: u32,
    scale: f32,
    part_rows: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScaleParams {
    rows: Rows,
    cols: u32,
    magnitude: u32,
}

/// Records `lengths[o] = ‖w[o, :] + scale · (A B)ᵀ[o, :]‖`: `w` (out, in), `lengths` (out) f32.
pub fn dora_lengths(
    r: &mut Recorder,
    w: &Matrix,
    update: &Update<'_>,
    lengths: &Buffer,
) -> Result<()> {
    let lanes = match r.context().variants().matmul {
        Variant::Tile => 8.0,
        Variant::Loads | Variant::Broadcast | Variant::Quads => 1.0,
    };
    let constants = [w.format().constant(), ("LANES", lanes)];
    for part in w.parts() {
        let params = LengthsParams {
            in_features: w.cols() as u32,
            first_out: part.first_row as u32,
            outs: w.rows() as u32,
            rank: update.rank as u32,
            a: update.a.offset,
            b: update.b,
            scale: update.scale,
            part_rows: part.rows as u32,
        };
        let [values, scales] = w.planes(part);
        let bindings = [values, scales, update.a.buffer.into(), lengths.into()];
        let grid = [Extent::cover(part.rows, ROWS), ONE, ONE];
        r.dispatch(&LENGTHS, &constants, &params, &bindings, grid)?;
    }
    Ok(())
}

/// Records `y = z · m / lengths + bias + residual`, the last two if given: `z`, `residual`, `y` (T, out),
/// `magnitude`, `lengths` and `bias` (out) f32. `y` is other memory than `z` and `residual`.
pub fn dora_scale(
    r: &mut Recorder,
    z: &Tensor,
    (magnitude, lengths): (Param<'_>, &Buffer),
    bias: Option<&Buffer>,
    residual: Option<&Tensor>,
    y: &Tensor,
) -> Result<()> {
    let (rows, cols) = (z.rows(), z.cols() as u32);
    let params = ScaleParams { rows, cols, magnitude: magnitude.offset };
    let flag = |name, given| (name, f64::from(u8::from(given)));
    let constants = [flag("BIAS", bias.is_some()), flag("RESIDUAL", residual.is_some())];
    let bindings = [
        z.binding(),
        magnitude.buffer.into(),
        lengths.into(),
        // What is bound in the place of none is not read.
        bias.unwrap_or(lengths).into(),
        residual.unwrap_or(z).binding(),
        y.binding(),
    ];
    let grid = [Extent::cover(z.cols(), 64), z.per_token(1), ONE];
    r.dispatch(&SCALE, &constants, &params, &bindings, grid)
}

/// The reference of [`dora_lengths`]: (out) of `w` (out, in), `a` (in, rank), `b` (rank, out), in f64.
pub fn lengths_reference(w: &[f32], (a, b, rank): (&[f32], &[f32], usize), scale: f32) -> Vec<f64> {
    let outs = b.len() / rank;
    let length = |(o, row): (usize, &[f32])| {
        let updated = row.iter().enumerate().map(|(i, &w)| {
            let product = |r: usize| f64::from(a[i * rank + r]) * f64::from(b[r * outs + o]);
            f64::from(w) + f64::from(scale) * (0..rank).map(product).sum::<f64>()
        });
        updated.map(|value| value * value).sum::<f64>().sqrt()
    };
    w.chunks_exact(a.len() / rank).enumerate().map(length).collect()
}

/// Compares the kernels of forward and backward with the formulas on the CPU.
pub async fn parity(
    context: &Context,
    format: Format,
    tokens: usize,
    (outs, ins): (usize, usize),
    rank: usize,
) -> Result<()> {
    let (matrix, w) = weight::noise_matrix(context, format, outs, ins)?;
    let [a, b, m] = [ins * rank, rank * outs, outs].map(|count| check::noise(count as u64, count));
    // Behind something that is another's.
    let all = [&[9.0], &a[..], &b, &m].concat();
    let parameters = context.storage_from("parameters", &all)?;
    let gradients = context.storage_from("gradients", &all)?;
    let [a_at, b_at, m_at] = [1, 1 + a.len(), 1 + a.len() + b.len()].map(|at| at as u32);
    let at = |offset| Param { buffer: &parameters, offset };
    let update = Update { a: at(a_at), b: b_at, magnitude: Some(m_at), rank, scale: 1.5 };

    let [z, residual, dy] = [1, 2, 3].map(|seed| check::noise(seed, tokens * outs));
    let tensor = |values: &[f32]| Tensor::from(context, outs, values);
    let (z_gpu, residual_gpu, dy_gpu) = (tensor(&z)?, tensor(&residual)?, tensor(&dy)?);
    let bias = check::noise(4, outs);
    let bias_gpu = context.storage_from("bias", &bias)?;
    let lengths = context.storage("lengths", (outs * 4) as u64)?;
    let [y, dz] = [(); 2].map(|()| Tensor::new(context, tokens, outs));
    let (y, dz) = (y?, dz?);
    check::run(context, tokens, |r| {
        dora_lengths(r, &matrix, &update, &lengths)?;
        let magnitude = (at(m_at), &lengths);
        dora_scale(r, &z_gpu, magnitude, Some(&bias_gpu), Some(&residual_gpu), &y)?;
        dora_scale(r, &dy_gpu, magnitude, None, None, &dz)?;
        let gradient = Param { buffer: &gradients, offset: m_at };
        product_gradient(r, &dy_gpu, &z_gpu, &lengths, gradient)
    })?;

    let expected = lengths_reference(&w, (&a, &b, rank), update.scale);
    let rounded: Vec<f32> = expected.iter().map(|&length| length as f32).collect();
    check::close("dora_lengths", &context.read(&lengths, 0, outs).await?, &rounded, 1e-5, 1e-5)?;
    let ratio = |i: usize| f64::from(m[i % outs]) / expected[i % outs];
    let scaled = |i: usize| f64::from(z[i]) * ratio(i);
    let y_expected: Vec<f32> = (0..z.len())
        .map(|i| (scaled(i) + f64::from(bias[i % outs]) + f64::from(residual[i])) as f32)
        .collect();
    let dz_expected: Vec<f32> =
        (0..dy.len()).map(|i| (f64::from(dy[i]) * ratio(i)) as f32).collect();
    for (tensor, expected) in [(y, y_expected), (dz, dz_expected)] {
        let actual = context.read(tensor.buffer(), 0, tokens * outs).await?;
        check::close("dora_scale", &actual, &expected, 1e-5, 1e-5)?;
    }
    let slope = |o: usize| {
        let of = |i: usize| f64::from(dy[i]) * f64::from(z[i]) / expected[o];
        (f64::from(m[o]) + (o..z.len()).step_by(outs).map(of).sum::<f64>()) as f32
    };
    let slopes: Vec<f32> = (0..outs).map(slope).collect();
    let actual: Vec<f32> = context.read(&gradients, 0, all.len()).await?;
    let (before, actual) = actual.split_at(m_at as usize);
    check::close("dora's gradient", actual, &slopes, 1e-5, 1e-5)?;
    check::close("dora's other gradients", before, &all[..before.len()], 0.0, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference_in_every_format() {
        let shapes = [(1, (1, 1), 1), (3, (9, 45), 3), (10, (70, 100), 8), (2, (33, 576), 5)];
        for context in check::test_contexts().await {
            for format in Format::ALL {
                for (tokens, shape, rank) in shapes {
                    parity(&context, format, tokens, shape, rank).await.unwrap();
                }
            }
        }
    }

    #[async_test]
    async fn a_matrix_in_parts_has_the_same_lengths() {
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..Default::default() };
        let options = crate::gpu::ContextOptions { limits: Some(limits), ..Default::default() };
        let context = Context::new(&options).await.unwrap();
        for format in Format::ALL {
            assert!(Matrix::new(&context, format, 300, 45).unwrap().parts().len() > 1);
            parity(&context, format, 2, (300, 45), 2).await.unwrap();
        }
    }

    #[async_test]
    async fn a_row_of_zeros_stays_nothing() {
        let context = check::test_context().await;
        let w = Matrix::from_f32(&context, Format::F32, 4, &[0.0; 4]).unwrap();
        let parameters = context.storage("parameters", 4 * 6).unwrap();
        let lengths = context.storage("lengths", 4).unwrap();
        let a = Param { buffer: &parameters, offset: 0 };
        let update = Update { a, b: 4, magnitude: Some(5), rank: 1, scale: 1.0 };
        let z = Tensor::new(&context, 1, 1).unwrap();
        let y = Tensor::from(&context, 1, &[7.0]).unwrap();
        check::run(&context, 1, |r| {
            dora_lengths(r, &w, &update, &lengths)?;
            let magnitude = Param { buffer: &parameters, offset: 5 };
            dora_scale(r, &z, (magnitude, &lengths), None, None, &y)
        })
        .unwrap();
        assert_eq!(context.read::<f32>(y.buffer(), 0, 1).await.unwrap(), [0.0]);
    }
}
