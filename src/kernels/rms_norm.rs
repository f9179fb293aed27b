//! Root-mean-square normalisation (Zhang and Sennrich, 2019), one workgroup a token.

use super::{Rows, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder};

const WORKGROUP: Kernel = Kernel {
    name: "rms_norm",
    source: &[
        include_str!("step.wgsl"),
        include_str!("sum_workgroup.wgsl"),
        include_str!("rms_norm.wgsl"),
    ],
    storage: &[Read, Read, Write],
};
const SUBGROUP: Kernel = Kernel {
    name: "rms_norm_subgroup",
    source: &[
        include_str!("step.wgsl"),
        include_str!("sum_subgroup.wgsl"),
        include_str!("rms_norm.wgsl"),
    ],
    storage: &[Read, Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    eps: f32,
}

/// Records `y[t, i] = x[t, i] · weight[i] / sqrt(mean(x[t, :]²) + eps)`.
///
/// `x`, `y` (T, cols); `weight` (cols).
pub fn rms_norm(r: &mut Recorder, x: &Tensor, weight: &Buffer, eps: f32, y: &Tensor) -> Result<()> {
    let params = Params { rows: x.rows(), cols: x.cols() as u32, eps };
    let bindings = [x.binding(), weight.into(), y.binding()];
    let grid = [x.per_token(1), super::ONE, super::ONE];
    match r.context().lanes() {
        None => r.dispatch(&WORKGROUP, &[], &params, &bindings, grid),
        Some(lanes) => {
            let threads = [("THREADS", lanes.count().into())];
            r.dispatch(&SUBGROUP, &threads, &params, &bindings, grid)
        }
    }
}

/// The reference of [`rms_norm`], over any number of rows.
pub fn reference(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let norm = |row: &[f32]| {
        let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        let scaled =
            row.iter().zip(weight).map(move |(&v, &w)| f64::from(v) * scale * f64::from(w));
        scaled.map(|v| v as f32).collect::<Vec<f32>>()
    };
    x.chunks_exact(weight.len()).flat_map(norm).collect()
}

/// Compares kernel and reference on `tokens` rows of `cols`.
pub async fn parity(context: &Context, tokens: usize, cols: usize) -> Result<()> {
    let (x, weight) = (check::noise(1, tokens * cols), check::noise(2, cols));
    let y = Tensor::new(context, tokens, cols)?;
    let (x_gpu, weight_gpu) =
        (Tensor::from(context, cols, &x)?, context.storage_from("weight", &weight)?);
    check::run(context, tokens, |r| rms_norm(r, &x_gpu, &weight_gpu, 1e-5, &y))?;
    let actual = context.read(y.buffer(), 0, tokens * cols).await?;
    check::close("rms_norm", &actual, &reference(&x, &weight, 1e-5), 1e-6, 1e-5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference() {
        for context in check::test_contexts().await {
            for (tokens, cols) in [(1, 1), (3, 63), (5, 64), (2, 65), (7, 576)] {
                parity(&context, tokens, cols).await.unwrap();
            }
        }
    }

    #[async_test]
    async fn leaves_rows_beyond_the_replay_alone() {
        let context = check::test_context().await;
        let x = Tensor::from(&context, 4, &check::noise(1, 12)).unwrap();
        let weight = context.storage_from("weight", &[1f32; 4]).unwrap();
        let y = Tensor::new(&context, 3, 4).unwrap();
        check::run(&context, 2, |r| rms_norm(r, &x, &weight, 1e-5, &y)).unwrap();
        let actual: Vec<f32> = context.read(y.buffer(), 0, 12).await.unwrap();
        assert!(actual[..8].iter().all(|&v| v != 0.0));
        assert_eq!(actual[8..], [0.0; 4]);
    }
}
