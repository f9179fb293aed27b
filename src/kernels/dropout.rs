//! Dropout (Srivastava et al., 2014), its own backward.

use super::{ONE, Rows, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Context, Kernel, Recorder, Step};

const KERNEL: Kernel = Kernel {
    name: "dropout",
    source: &[include_str!("step.wgsl"), include_str!("dropout.wgsl")],
    storage: &[Read, Write],
};

/// What is dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The probability of a value to become 0, below 1.
    pub p: f32,
    /// Tells tensors of one step apart; [`Step::seed`] tells steps apart.
    pub salt: u32,
}

impl Dropout {
    fn threshold(self) -> u32 {
        // Rounds to 2³² at most, which `as` makes 2³² − 1.
        (f64::from(self.p) * 2f64.powi(32)) as u32
    }

    fn scale(self) -> f32 {
        1.0 / (1.0 - self.p)
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    threshold: u32,
    scale: f32,
    salt: u32,
    accumulate: u32,
    pad: u32,
}

/// Records `y = x / (1 − p)` where a value is kept, else 0, or `y += …` with `accumulate`.
///
/// `x`, `y` (T, cols). The gradient of `x` is the same of that of `y`.
pub fn dropout(
    r: &mut Recorder,
    x: &Tensor,
    dropout: Dropout,
    y: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let params = Params {
        rows: x.rows(),
        cols: x.cols() as u32,
        threshold: dropout.threshold(),
        scale: dropout.scale(),
        salt: dropout.salt,
        accumulate: accumulate.into(),
        pad: 0,
    };
    let bindings = [x.binding(), y.binding()];
    r.dispatch(&KERNEL, &[], &params, &bindings, [x.per_token(1), ONE, ONE])
}

/// The reference of [`dropout`], without accumulation.
pub fn reference(x: &[f32], dropout: Dropout, seed: u32) -> Vec<f32> {
    let salt = hash(dropout.salt ^ hash(seed));
    let one = |(at, &x): (u32, &f32)| match hash(at ^ salt) >= dropout.threshold() {
        true => dropout.scale() * x,
        false => 0.0,
    };
    (0..).zip(x).map(one).collect()
}

fn hash(value: u32) -> u32 {
    let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// Compares kernel and reference.
pub async fn parity(context: &Context, tokens: usize, cols: usize, p: f32) -> Result<()> {
    let (x, before) = (check::noise(1, tokens * cols), check::noise(2, tokens * cols));
    let dropped = Dropout { p, salt: 7 };
    let x_gpu = Tensor::from(context, cols, &x)?;
    let (y, sum) = (Tensor::new(context, tokens, cols)?, Tensor::from(context, cols, &before)?);
    let step = Step { tokens: tokens as u32, seed: 3, ..Default::default() };
    check::run_step(context, step, |r| {
        dropout(r, &x_gpu, dropped, &y, false)?;
        dropout(r, &x_gpu, dropped, &sum, true)
    })?;
    let expected = reference(&x, dropped, 3);
    let summed: Vec<f32> = expected.iter().zip(&before).map(|(a, b)| a + b).collect();
    for (tensor, expected) in [(y, expected), (sum, summed)] {
        let actual = context.read(tensor.buffer(), 0, tokens * cols).await?;
        check::close("dropout", &actual, &expected, 1e-6, 1e-6)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{async_test, test};

    #[async_test]
    async fn matches_the_reference() {
        let context = check::test_context().await;
        for (tokens, cols, p) in [(1, 1, 0.5), (3, 65, 0.1), (7, 576, 0.9), (2, 64, 0.0)] {
            parity(&context, tokens, cols, p).await.unwrap();
        }
    }

    #[test]
    fn it_drops_as_many_as_it_should_and_keeps_the_mean() {
        let ones = vec![1.0; 100_000];
        for p in [0.0, 0.1, 0.5] {
            for (seed, salt) in [(0, 0), (1, 0), (0, 1)] {
                let kept = reference(&ones, Dropout { p, salt }, seed);
                let dropped = kept.iter().filter(|&&v| v == 0.0).count() as f32 / 1e5;
                assert!((dropped - p).abs() < 0.01, "{dropped} of {p}");
                let mean = kept.iter().sum::<f32>() / 1e5;
                assert!((mean - 1.0).abs() < 0.02, "{mean}");
            }
        }
        let mask = |seed, salt| reference(&ones[..64], Dropout { p: 0.5, salt }, seed);
        assert!(mask(0, 0) != mask(1, 0) && mask(0, 0) != mask(0, 1));
    }
}
