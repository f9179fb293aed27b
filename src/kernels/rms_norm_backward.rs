//! The backward of [`super::rms_norm`] towards its input; its weight is frozen.

use super::{ONE, Rows, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder};

const WORKGROUP: Kernel = Kernel {
    name: "rms_norm_backward",
    source: &[
        include_str!("step.wgsl"),
        include_str!("sum_workgroup.wgsl"),
        include_str!("rms_norm_backward.wgsl"),
    ],
    storage: &[Read, Read, Read, Write],
};
const SUBGROUP: Kernel = Kernel {
    name: "rms_norm_backward_subgroup",
    source: &[
        include_str!("step.wgsl"),
        include_str!("sum_subgroup.wgsl"),
        include_str!("rms_norm_backward.wgsl"),
    ],
    storage: &[Read, Read, Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    eps: f32,
    accumulate: u32,
    pad: u32,
}

/// Records `dx = s · (g − x · s² · mean(g · x))` with `g = dy · weight` and
/// `s = 1 / sqrt(mean(x²) + eps)`, or `dx += …` with `accumulate`.
///
/// `x`, `dy`, `dx` (T, cols); `weight` (cols).
pub fn rms_norm_backward(
    r: &mut Recorder,
    x: &Tensor,
    weight: &Buffer,
    eps: f32,
    dy: &Tensor,
    dx: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let params = Params {
        rows: x.rows(),
        cols: x.cols() as u32,
        eps,
        accumulate: accumulate.into(),
        pad: 0,
    };
    let bindings = [x.binding(), weight.into(), dy.binding(), dx.binding()];
    let grid = [x.per_token(1), ONE, ONE];
    match r.context().lanes() {
        None => r.dispatch(&WORKGROUP, &[], &params, &bindings, grid),
        Some(lanes) => {
            let threads = [("THREADS", lanes.count().into())];
            r.dispatch(&SUBGROUP, &threads, &params, &bindings, grid)
        }
    }
}

/// The reference of [`rms_norm_backward`], without accumulation.
pub fn reference(x: &[f32], weight: &[f32], eps: f32, dy: &[f32]) -> Vec<f32> {
    let cols = weight.len();
    let row = |(x, dy): (&[f32], &[f32])| {
        let g: Vec<f64> =
            dy.iter().zip(weight).map(|(&d, &w)| f64::from(d) * f64::from(w)).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / cols as f64;
        let square = mean(&mut x.iter().map(|&x| f64::from(x).powi(2)));
        let cross = mean(&mut x.iter().zip(&g).map(|(&x, g)| f64::from(x) * g));
        let s = 1.0 / (square + f64::from(eps)).sqrt();
        let one = |(&x, g): (&f32, &f64)| (s * (g - f64::from(x) * s * s * cross)) as f32;
        x.iter().zip(&g).map(one).collect::<Vec<f32>>()
    };
    x.chunks_exact(cols).zip(dy.chunks_exact(cols)).flat_map(row).collect()
}

/// Compares kernel and reference on `tokens` rows of `cols`.
pub async fn parity(context: &Context, tokens: usize, cols: usize) -> Result<()> {
    let (x, weight) = (check::noise(1, tokens * cols), check::noise(2, cols));
    let (dy, before) = (check::noise(3, tokens * cols), check::noise(4, tokens * cols));
    let (x_gpu, dy_gpu) = (Tensor::from(context, cols, &x)?, Tensor::from(context, cols, &dy)?);
    let weight_gpu = context.storage_from("weight", &weight)?;
    let (dx, sum) = (Tensor::new(context, tokens, cols)?, Tensor::from(context, cols, &before)?);
    check::run(context, tokens, |r| {
        rms_norm_backward(r, &x_gpu, &weight_gpu, 1e-5, &dy_gpu, &dx, false)?;
        rms_norm_backward(r, &x_gpu, &weight_gpu, 1e-5, &dy_gpu, &sum, true)
    })?;
    let expected = reference(&x, &weight, 1e-5, &dy);
    let summed: Vec<f32> = expected.iter().zip(&before).map(|(a, b)| a + b).collect();
    for (tensor, expected) in [(dx, expected), (sum, summed)] {
        let actual = context.read(tensor.buffer(), 0, tokens * cols).await?;
        check::close("rms_norm_backward", &actual, &expected, 1e-5, 1e-5)?;
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
        for context in check::test_contexts().await {
            for (tokens, cols) in [(1, 2), (3, 63), (5, 64), (7, 576)] {
                parity(&context, tokens, cols).await.unwrap();
            }
        }
    }

    #[test]
    fn the_reference_is_the_slope_of_the_forward() {
        let (x, weight, dy) = (check::noise(1, 6), check::noise(2, 6), check::noise(3, 6));
        let loss = |x: &[f32]| -> f64 {
            let y = rms_norm::reference(x, &weight, 1e-5);
            y.iter().zip(&dy).map(|(&y, &d)| f64::from(y) * f64::from(d)).sum()
        };
        let slopes = reference(&x, &weight, 1e-5, &dy);
        for i in 0..x.len() {
            let (mut low, mut high) = (x.clone(), x.clone());
            low[i] -= 1e-2;
            high[i] += 1e-2;
            let slope = (loss(&high) - loss(&low)) / f64::from(high[i] - low[i]);
            assert!((slope - f64::from(slopes[i])).abs() < 2e-3, "{slope} {}", slopes[i]);
        }
    }
}
