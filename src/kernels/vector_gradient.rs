//! The gradients of what a layer has one number a feature of: biases, the weights of norms and the
//! lengths of DoRA.

use super::lora::Param;
use super::{ONE, Rows, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Binding, Buffer, Context, Extent, Kernel, Recorder};

const SCALE: Kernel = Kernel {
    name: "rms_scale",
    source: &[include_str!("step.wgsl"), include_str!("rms_scale.wgsl")],
    storage: &[Read, Write],
};
const GRADIENT: Kernel = Kernel {
    name: "vector_gradient",
    source: &[include_str!("step.wgsl"), include_str!("vector_gradient.wgsl")],
    storage: &[Read, Read, Read, Write],
};

/// Columns that a workgroup of `vector_gradient.wgsl` does.
const COLUMNS: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScaleParams {
    rows: Rows,
    cols: u32,
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    offset: u32,
}

/// What `KIND` of `vector_gradient.wgsl` stands for.
#[derive(Clone, Copy)]
enum Kind {
    Bias,
    Norm,
    Length,
}

/// Records `gradient[c] += Σ_t dy[t, c]`: `dy` (T, cols), `gradient` (cols) f32.
pub fn bias_gradient(r: &mut Recorder, dy: &Tensor, gradient: &Buffer) -> Result<()> {
    let gradient = Param { buffer: gradient, offset: 0 };
    // What is bound in the places of the others is not read.
    record(r, Kind::Bias, dy, (dy, dy.binding()), gradient)
}

/// Records `gradient[c] += Σ_t dy[t, c] · x[t, c] / sqrt(mean(x[t, :]²) + eps)`, the backward of
/// [`super::rms_norm`] towards its weight.
///
/// `x`, `dy` (T, cols), `gradient` (cols) f32; `scales` (T, 1) holds what it likes afterwards.
pub fn norm_gradient(
    r: &mut Recorder,
    x: &Tensor,
    eps: f32,
    dy: &Tensor,
    scales: &Tensor,
    gradient: &Buffer,
) -> Result<()> {
    let params = ScaleParams { rows: x.rows(), cols: x.cols() as u32, eps };
    let bindings = [x.binding(), scales.binding()];
    r.dispatch(&SCALE, &[], &params, &bindings, [x.per_token(1), ONE, ONE])?;
    let gradient = Param { buffer: gradient, offset: 0 };
    record(r, Kind::Norm, dy, (x, scales.binding()), gradient)
}

/// Records `gradient[c] += Σ_t dy[t, c] · x[t, c] / lengths[c]`: `x`, `dy` (T, cols), `lengths` and
/// `gradient` (cols) f32. What is shorter than 1e-30 counts as that long.
pub fn product_gradient(
    r: &mut Recorder,
    dy: &Tensor,
    x: &Tensor,
    lengths: &Buffer,
    gradient: Param<'_>,
) -> Result<()> {
    record(r, Kind::Length, dy, (x, lengths.into()), gradient)
}

fn record(
    r: &mut Recorder,
    kind: Kind,
    dy: &Tensor,
    (x, scales): (&Tensor, Binding<'_>),
    gradient: Param<'_>,
) -> Result<()> {
    let (rows, cols) = (dy.rows(), dy.cols() as u32);
    let params = Params { rows, cols, offset: gradient.offset };
    let bindings = [dy.binding(), x.binding(), scales, gradient.buffer.into()];
    let constants = [("KIND", f64::from(kind as u8))];
    let grid = [Extent::cover(dy.cols(), COLUMNS), ONE, ONE];
    r.dispatch(&GRADIENT, &constants, &params, &bindings, grid)
}

/// The reference of [`norm_gradient`] onto zeros.
pub fn reference(x: &[f32], eps: f32, dy: &[f32], cols: usize) -> Vec<f32> {
    let mut sums = vec![0.0; cols];
    for (x, dy) in x.chunks_exact(cols).zip(dy.chunks_exact(cols)) {
        let square = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (square + f64::from(eps)).sqrt();
        for ((sum, &x), &dy) in sums.iter_mut().zip(x).zip(dy) {
            *sum += f64::from(dy) * f64::from(x) * scale;
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Compares both kernels with sums on the CPU.
pub async fn parity(context: &Context, tokens: usize, cols: usize) -> Result<()> {
    let (x, dy) = (check::noise(1, tokens * cols), check::noise(2, tokens * cols));
    let before = check::noise(3, cols);
    let (x_gpu, dy_gpu) = (Tensor::from(context, cols, &x)?, Tensor::from(context, cols, &dy)?);
    let scales = Tensor::new(context, tokens, 1)?;
    let (norm, bias) =
        (context.storage_from("norm", &before)?, context.storage_from("bias", &before)?);
    check::run(context, tokens, |r| {
        norm_gradient(r, &x_gpu, 1e-5, &dy_gpu, &scales, &norm)?;
        bias_gradient(r, &dy_gpu, &bias)
    })?;
    let column = |c: usize| dy.iter().skip(c).step_by(cols).map(|&v| f64::from(v)).sum::<f64>();
    let biases: Vec<f32> = (0..cols).map(|c| column(c) as f32).collect();
    let norms = reference(&x, 1e-5, &dy, cols);
    for (buffer, expected) in [(norm, norms), (bias, biases)] {
        let expected: Vec<f32> = expected.iter().zip(&before).map(|(a, b)| a + b).collect();
        let actual = context.read(&buffer, 0, cols).await?;
        check::close("vector_gradient", &actual, &expected, 1e-6 * tokens as f32, 1e-5)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::rms_norm;
    use crate::testing::{async_test, test};

    #[async_test]
    async fn matches_the_reference() {
        let context = check::test_context().await;
        for (tokens, cols) in [(1, 1), (7, 33), (9, 64), (70, 577)] {
            parity(&context, tokens, cols).await.unwrap();
        }
    }

    #[test]
    fn the_reference_is_the_slope_of_the_forward() {
        let (x, weight, dy) = (check::noise(1, 12), check::noise(2, 4), check::noise(3, 12));
        let loss = |weight: &[f32]| -> f64 {
            let y = rms_norm::reference(&x, weight, 1e-5);
            y.iter().zip(&dy).map(|(&y, &d)| f64::from(y) * f64::from(d)).sum()
        };
        let slopes = reference(&x, 1e-5, &dy, 4);
        for i in 0..weight.len() {
            let (mut low, mut high) = (weight.clone(), weight.clone());
            low[i] -= 1e-2;
            high[i] += 1e-2;
            let slope = (loss(&high) - loss(&low)) / f64::from(high[i] - low[i]);
            assert!((slope - f64::from(slopes[i])).abs() < 1e-4, "{slope} {}", slopes[i]);
        }
    }
}
