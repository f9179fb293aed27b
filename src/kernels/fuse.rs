//! An update put into the weights that it is for, once and for all.

use super::lora::Param;
use super::weight::{BLOCK, Format, Matrix};
use super::{ONE, check};
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Context, Extent, Kernel, Recorder};
use crate::{Error, Result};

const KERNEL: Kernel = Kernel {
    name: "fuse",
    source: &[include_str!("step.wgsl"), include_str!("fuse.wgsl")],
    storage: &[Read, Write],
};

/// Rows that stand side by side in the grid.
const ACROSS: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    in_features: u32,
    stride: u32,
    first_out: u32,
    outs: u32,
    rank: u32,
    a: u32,
    b: u32,
    magnitude: u32,
    scale: f32,
    has_magnitude: u32,
    part_rows: u32,
    pad: u32,
}

/// An update on the GPU, its arrays in one buffer.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// (in, rank)
    pub a: Param<'a>,
    /// Where (rank, out) begins in the buffer of `a`.
    pub b: u32,
    /// Where DoRA's (out) begins there, if it is one.
    pub magnitude: Option<u32>,
    /// Columns of A.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// Records `w[o, :] = w[o, :] + scale · (A B)ᵀ[o, :]`, scaled to the length `magnitude[o]` if there is
/// one. `w` (out, in) is [`Format::F32`].
///
/// # Errors
/// Another format.
pub fn fuse(r: &mut Recorder, update: Update<'_>, w: &Matrix) -> Result<()> {
    if w.format() != Format::F32 {
        return Err(Error::invalid("updates are put into weights of f32"));
    }
    for part in w.parts() {
        let params = Params {
            in_features: w.cols() as u32,
            stride: w.cols().next_multiple_of(BLOCK) as u32,
            first_out: part.first_row as u32,
            outs: w.rows() as u32,
            rank: update.rank as u32,
            a: update.a.offset,
            b: update.b,
            magnitude: update.magnitude.unwrap_or(0),
            scale: update.scale,
            has_magnitude: update.magnitude.is_some().into(),
            part_rows: part.rows as u32,
            pad: 0,
        };
        let [values, _] = w.planes(part);
        // A side of a grid is at most 65535.
        let grid = [Extent::Fixed(ACROSS as u32), Extent::cover(part.rows, ACROSS), ONE];
        r.dispatch(&KERNEL, &[], &params, &[update.a.buffer.into(), values], grid)?;
    }
    Ok(())
}

/// The reference of [`fuse`]: (out, in) of `w` (out, in), `a` (in, rank), `b` (rank, out).
pub fn reference(
    w: &[f32],
    (a, b, rank): (&[f32], &[f32], usize),
    scale: f32,
    magnitude: Option<&[f32]>,
) -> Vec<f32> {
    let outs = b.len() / rank;
    let row = |o: usize, row: &[f32]| -> Vec<f32> {
        let value = |(i, &w): (usize, &f32)| {
            let product = |r: usize| f64::from(a[i * rank + r]) * f64::from(b[r * outs + o]);
            f64::from(w) + f64::from(scale) * (0..rank).map(product).sum::<f64>()
        };
        let values: Vec<f64> = row.iter().enumerate().map(value).collect();
        let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let ratio = magnitude.map_or(1.0, |magnitude| f64::from(magnitude[o]) / length);
        values.into_iter().map(|value| (value * ratio) as f32).collect()
    };
    w.chunks_exact(a.len() / rank).enumerate().flat_map(|(o, w)| row(o, w)).collect()
}

/// Compares kernel and reference.
pub async fn parity(context: &Context, (outs, ins): (usize, usize), rank: usize) -> Result<()> {
    let w = check::noise(1, outs * ins);
    let [a, b, m] = [ins * rank, rank * outs, outs].map(|count| check::noise(count as u64, count));
    // Behind something that is another's.
    let all = [&[9.0], &a[..], &b, &m].concat();
    let parameters = context.storage_from("parameters", &all)?;
    let [a_at, b_at, m_at] = [1, 1 + a.len(), 1 + a.len() + b.len()].map(|at| at as u32);
    let matrix = Matrix::from_f32(context, Format::F32, ins, &w)?;
    let update = Update {
        a: Param { buffer: &parameters, offset: a_at },
        b: b_at,
        magnitude: Some(m_at),
        rank,
        scale: 1.5,
    };
    let plain = Matrix::from_f32(context, Format::F32, ins, &w)?;
    check::run(context, 1, |r| {
        fuse(r, update, &matrix)?;
        fuse(r, Update { magnitude: None, ..update }, &plain)
    })?;
    for (matrix, magnitude) in [(matrix, Some(&m[..])), (plain, None)] {
        let expected = reference(&w, (&a, &b, rank), update.scale, magnitude);
        let actual = matrix.read_f32(context).await?;
        check::close("fuse", &actual, &expected, 1e-5, 1e-5)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference() {
        let context = check::test_context().await;
        for (shape, rank) in [((1, 1), 1), ((9, 45), 3), ((65, 100), 8)] {
            parity(&context, shape, rank).await.unwrap();
        }
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..Default::default() };
        let options = crate::gpu::ContextOptions { limits: Some(limits), ..Default::default() };
        parity(&Context::new(&options).await.unwrap(), (300, 45), 2).await.unwrap();
    }
}
