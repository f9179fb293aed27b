//! The gate of the MLP (SwiGLU, Shazeer 2020) and its backward.

use super::{Rows, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Context, Extent, Kernel, Recorder};

const FORWARD: Kernel = Kernel {
    name: "silu_mul",
    source: &[include_str!("step.wgsl"), include_str!("silu_mul.wgsl")],
    storage: &[Read, Read, Write],
};

const BACKWARD: Kernel = Kernel {
    name: "silu_mul_backward",
    source: &[include_str!("step.wgsl"), include_str!("silu_mul_backward.wgsl")],
    storage: &[Read, Read, Read, Write, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    pad: u32,
}

fn params_and_grid(x: &Tensor) -> (Params, [Extent; 3]) {
    let params = Params { rows: x.rows(), cols: x.cols() as u32, pad: 0 };
    (params, [Extent::cover(x.cols(), 64), x.per_token(1), super::ONE])
}

/// Records `out = silu(gate) · up`, all (T, cols).
pub fn silu_mul(r: &mut Recorder, gate: &Tensor, up: &Tensor, out: &Tensor) -> Result<()> {
    let (params, grid) = params_and_grid(gate);
    r.dispatch(&FORWARD, &[], &params, &[gate.binding(), up.binding(), out.binding()], grid)
}

/// Records `d_gate` and `d_up` from `d_out`, the gradient of [`silu_mul`]'s `out`; all (T, cols).
pub fn silu_mul_backward(
    r: &mut Recorder,
    gate: &Tensor,
    up: &Tensor,
    d_out: &Tensor,
    d_gate: &Tensor,
    d_up: &Tensor,
) -> Result<()> {
    let (params, grid) = params_and_grid(gate);
    let bindings = [gate, up, d_out, d_gate, d_up].map(Tensor::binding);
    r.dispatch(&BACKWARD, &[], &params, &bindings, grid)
}

/// The reference of [`silu_mul`].
pub fn reference(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let one = |(&x, &up)| (f64::from(x) * sigmoid(x) * f64::from(up)) as f32;
    gate.iter().zip(up).map(one).collect()
}

/// The reference of [`silu_mul_backward`]: `d_gate` and `d_up`.
pub fn reference_backward(gate: &[f32], up: &[f32], d_out: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let one = |((&x, &up), &d): ((&f32, &f32), &f32)| {
        let (s, x, d) = (sigmoid(x), f64::from(x), f64::from(d));
        let slope = s + x * s * (1.0 - s);
        ((d * f64::from(up) * slope) as f32, (d * x * s) as f32)
    };
    gate.iter().zip(up).zip(d_out).map(one).unzip()
}

fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(x)).exp())
}

/// Compares both kernels with their references on `tokens` rows of `cols`.
pub async fn parity(context: &Context, tokens: usize, cols: usize) -> Result<()> {
    let count = tokens * cols;
    let gate: Vec<f32> = check::noise(1, count).iter().map(|x| 12.0 * x).collect();
    let (up, d) = (check::noise(2, count), check::noise(3, count));
    let tensor = |values| Tensor::from(context, cols, values);
    let (gate_gpu, up_gpu, d_gpu) = (tensor(&gate)?, tensor(&up)?, tensor(&d)?);
    let empty = || Tensor::new(context, tokens, cols);
    let (out, d_gate, d_up) = (empty()?, empty()?, empty()?);
    check::run(context, tokens, |r| {
        silu_mul(r, &gate_gpu, &up_gpu, &out)?;
        silu_mul_backward(r, &gate_gpu, &up_gpu, &d_gpu, &d_gate, &d_up)
    })?;
    let (d_gate_expected, d_up_expected) = reference_backward(&gate, &up, &d);
    for (what, tensor, expected) in [
        ("silu_mul", out, reference(&gate, &up)),
        ("silu_mul_backward gate", d_gate, d_gate_expected),
        ("silu_mul_backward up", d_up, d_up_expected),
    ] {
        let actual = context.read(tensor.buffer(), 0, count).await?;
        check::close(what, &actual, &expected, 1e-6, 1e-5)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{async_test, test};

    #[async_test]
    async fn match_the_references() {
        let context = check::test_context().await;
        for (tokens, cols) in [(1, 1), (3, 65), (2, 1536)] {
            parity(&context, tokens, cols).await.unwrap();
        }
    }

    #[async_test]
    async fn a_gate_far_below_zero_gives_zero() {
        // e^−x overflows to infinity there; x / infinity must be 0, not NaN.
        let context = check::test_context().await;
        let tensor = |x| Tensor::from(&context, 1, &[x]).unwrap();
        let (gate, up, d) = (tensor(-200.0), tensor(1.0), tensor(1.0));
        let (out, d_gate, d_up) = (tensor(9.0), tensor(9.0), tensor(9.0));
        check::run(&context, 1, |r| {
            silu_mul(r, &gate, &up, &out)?;
            silu_mul_backward(r, &gate, &up, &d, &d_gate, &d_up)
        })
        .unwrap();
        for tensor in [out, d_gate, d_up] {
            let actual: Vec<f32> = context.read(tensor.buffer(), 0, 1).await.unwrap();
            assert!(actual[0].abs() < 1e-30, "{actual:?}");
        }
    }

    #[test]
    fn the_backward_is_the_slope_of_the_forward() {
        let (gate, up, h) = ([0.7f32, -1.3], [0.4f32, 1.1], 1e-3f32);
        let (d_gate, d_up) = reference_backward(&gate, &up, &[1.0, 1.0]);
        let shifted = |x: [f32; 2], by: f32| x.map(|x| x + by);
        let slope = |high: Vec<f32>, low: Vec<f32>| [0, 1].map(|i| (high[i] - low[i]) / (2.0 * h));
        let by_gate = slope(reference(&shifted(gate, h), &up), reference(&shifted(gate, -h), &up));
        let by_up = slope(reference(&gate, &shifted(up, h)), reference(&gate, &shifted(up, -h)));
        check::close("gate", &d_gate, &by_gate, 1e-3, 1e-3).unwrap();
        check::close("up", &d_up, &by_up, 1e-3, 1e-3).unwrap();
    }
}
