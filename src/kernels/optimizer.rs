//! One optimizer step over arrays of parameters: gradient norm, clipping, Adam or AdamW.

use super::{ONE, check};
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder, Step};
use crate::{Error, Result};

const ADAM: Kernel = Kernel {
    name: "adam",
    source: &[include_str!("step.wgsl"), include_str!("adam.wgsl")],
    storage: &[Read, Read, Write, Write, Write],
};
const NORM: Kernel = Kernel {
    name: "gradient_norm",
    source: &[include_str!("step.wgsl"), include_str!("gradient_norm.wgsl")],
    storage: &[Read, Write, Write],
};

/// Threads of a workgroup, and the most workgroups whose partial sums one workgroup adds up.
const THREADS: usize = 256;

/// Adam's constants; see [`Step`] for what changes from step to step.
///
/// The decays are doubles, as in PyTorch and MLX: in f32, 1 − 0.999 is 5·10⁻⁵ too large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// AdamW's decoupled decay; 0 is Adam.
    pub weight_decay: f32,
}

/// The buffers of a step, f32.
#[derive(Debug, Clone)]
pub struct OptimizerState {
    /// What is trained.
    pub arrays: Vec<OptimizerArray>,
    /// Clipping factor and gradient norm, of all arrays together.
    pub clip: Buffer,
    /// (arrays, THREADS), partial sums of the norm.
    partial: Buffer,
}

/// Parameters in one buffer, and what belongs to each of them.
#[derive(Debug, Clone)]
pub struct OptimizerArray {
    /// Number of parameters.
    pub count: usize,
    /// (count)
    pub parameters: Buffer,
    /// (count), the sum over micro-batches.
    pub gradients: Buffer,
    /// (count)
    pub first_moments: Buffer,
    /// (count)
    pub second_moments: Buffer,
}

impl OptimizerState {
    /// Zeroed moments for arrays of parameters, of their gradients, both (count) f32, and the count.
    ///
    /// # Errors
    /// Arrays of more parameters than kernels count; too little memory.
    pub fn new(
        context: &Context,
        arrays: impl IntoIterator<Item = (Buffer, Buffer, usize)>,
    ) -> Result<Self> {
        let array = |(parameters, gradients, count): (Buffer, Buffer, usize)| {
            if u32::try_from(count).is_err() {
                return Err(Error::Gpu(format!("an array of {count} parameters is too large")));
            }
            let bytes = (count * 4) as u64;
            Ok(OptimizerArray {
                count,
                parameters,
                gradients,
                first_moments: context.storage("first moments", bytes)?,
                second_moments: context.storage("second moments", bytes)?,
            })
        };
        let arrays: Vec<OptimizerArray> = arrays.into_iter().map(array).collect::<Result<_>>()?;
        let partial = context.storage("partial norms", (arrays.len() * THREADS * 4) as u64)?;
        Ok(Self { arrays, clip: context.storage("clip", 8)?, partial })
    }

    /// Parameters of all arrays.
    pub fn count(&self) -> usize {
        self.arrays.iter().map(|array| array.count).sum()
    }
}

impl OptimizerArray {
    fn groups(&self) -> usize {
        self.count.div_ceil(THREADS).clamp(1, THREADS)
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct NormParams {
    count: u32,
    finish: u32,
    max_norm: f32,
    first: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AdamParams {
    count: u32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    eps: f32,
    weight_decay: f32,
    pad: u32,
}

/// Records the global norm of the gradients, times `gradient_scale`, and the factor that brings it
/// down to `max_norm` (`None`: 1), into [`OptimizerState::clip`].
pub fn gradient_norm(
    r: &mut Recorder,
    state: &OptimizerState,
    max_norm: Option<f32>,
) -> Result<()> {
    let max_norm = max_norm.unwrap_or(0.0);
    for (i, array) in state.arrays.iter().enumerate() {
        let (count, first) = (array.count as u32, (i * THREADS) as u32);
        let params = NormParams { count, finish: 0, max_norm, first };
        let bindings = [(&array.gradients).into(), (&state.partial).into(), (&state.clip).into()];
        r.dispatch(
            &NORM,
            &[],
            &params,
            &bindings,
            [Extent::Fixed(array.groups() as u32), ONE, ONE],
        )?;
    }
    // What is bound in the gradients' place is not read.
    let Some(array) = state.arrays.first() else { return Ok(()) };
    let params = NormParams { count: 0, finish: 1, max_norm, first: 0 };
    let bindings = [(&array.gradients).into(), (&state.partial).into(), (&state.clip).into()];
    r.dispatch(&NORM, &[], &params, &bindings, [ONE; 3])
}

/// Records one step of Adam or AdamW, after [`gradient_norm`].
pub fn adam(r: &mut Recorder, state: &OptimizerState, adam: Adam) -> Result<()> {
    for array in &state.arrays {
        let params = AdamParams {
            count: array.count as u32,
            beta1: adam.beta1 as f32,
            beta2: adam.beta2 as f32,
            rest1: (1.0 - adam.beta1) as f32,
            rest2: (1.0 - adam.beta2) as f32,
            eps: adam.eps,
            weight_decay: adam.weight_decay,
            pad: 0,
        };
        let bindings = [
            (&array.gradients).into(),
            (&state.clip).into(),
            (&array.parameters).into(),
            (&array.first_moments).into(),
            (&array.second_moments).into(),
        ];
        // A thread does several parameters where there are many.
        let groups = array.count.div_ceil(THREADS).clamp(1, 4096) as u32;
        r.dispatch(&ADAM, &[], &params, &bindings, [Extent::Fixed(groups), ONE, ONE])?;
    }
    Ok(())
}

/// The reference of one [`adam`] step: parameters and both moments, updated in place.
pub fn reference(
    step: &Step,
    clip: f64,
    gradients: &[f32],
    adam: Adam,
    parameters: &mut [f32],
    moments: (&mut [f32], &mut [f32]),
) {
    let lr = f64::from(step.learning_rate);
    let Adam { beta1, beta2, .. } = adam;
    for (i, p) in parameters.iter_mut().enumerate() {
        let g = f64::from(gradients[i]) * clip * f64::from(step.gradient_scale);
        let m = beta1 * f64::from(moments.0[i]) + (1.0 - beta1) * g;
        let v = beta2 * f64::from(moments.1[i]) + (1.0 - beta2) * g * g;
        (moments.0[i], moments.1[i]) = (m as f32, v as f32);
        let kept = f64::from(*p) * (1.0 - lr * f64::from(adam.weight_decay));
        let scale = (v * f64::from(step.second_moment_scale)).sqrt() + f64::from(adam.eps);
        *p = (kept - lr * m * f64::from(step.first_moment_scale) / scale) as f32;
    }
}

/// Compares two steps over `count` parameters with the reference, with or without clipping.
pub async fn parity(context: &Context, count: usize, max_norm: Option<f32>) -> Result<()> {
    let adam_config = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
    let (mut parameters, gradients) = (check::noise(1, count), check::noise(2, count));
    // In two arrays, of which the first is about a third.
    let split = count.div_ceil(3);
    let halves = [0..split, split..count].into_iter().filter(|half| !half.is_empty());
    let arrays = halves.clone().map(|half| {
        let parameters = context.storage_from("parameters", &parameters[half.clone()])?;
        let gradients = context.storage_from("gradients", &gradients[half.clone()])?;
        Ok((parameters, gradients, half.len()))
    });
    let state = OptimizerState::new(context, arrays.collect::<Result<Vec<_>>>()?)?;
    let (mut first, mut second) = (vec![0.0; count], vec![0.0; count]);
    let squares: f64 = gradients.iter().map(|&g| f64::from(g).powi(2)).sum();
    let norm = 0.5 * squares.sqrt();
    let clip = max_norm.map_or(1.0, |most| (f64::from(most) / (norm + 1e-6)).min(1.0));
    for t in 1..=2 {
        let step = Step {
            learning_rate: 0.01,
            gradient_scale: 0.5,
            first_moment_scale: 1.0 / (1.0 - 0.9f32.powi(t)),
            second_moment_scale: 1.0 / (1.0 - 0.999f32.powi(t)),
            ..Default::default()
        };
        check::run_step(context, step, |r| {
            gradient_norm(r, &state, max_norm)?;
            adam(r, &state, adam_config)
        })?;
        let moments = (&mut first[..], &mut second[..]);
        reference(&step, clip, &gradients, adam_config, &mut parameters, moments);
    }
    let found: Vec<f32> = context.read(&state.clip, 0, 2).await?;
    check::close("gradient_norm", &found, &[clip as f32, norm as f32], 1e-6, 1e-5)?;
    for (array, half) in state.arrays.iter().zip(halves) {
        for (what, buffer, expected, atol) in [
            ("adam", &array.parameters, &parameters, 1e-7),
            ("adam's first moment", &array.first_moments, &first, 1e-7),
            // A thousandth of a square: small.
            ("adam's second moment", &array.second_moments, &second, 1e-10),
        ] {
            let actual = context.read(buffer, 0, half.len()).await?;
            check::close(what, &actual, &expected[half.clone()], atol, 1e-5)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn two_steps_match_the_reference() {
        let context = check::test_context().await;
        for (count, max_norm) in [(1, None), (257, Some(0.5)), (70_001, Some(1e9)), (1000, None)] {
            parity(&context, count, max_norm).await.unwrap();
        }
    }

    #[async_test]
    async fn a_gradient_that_is_not_finite_shows_in_the_norm() {
        let context = check::test_context().await;
        let parameters = context.storage_from("parameters", &[1f32, 2.0]).unwrap();
        let gradients = context.storage_from("gradients", &[1f32, f32::NAN]).unwrap();
        let state = OptimizerState::new(&context, [(parameters, gradients, 2)]).unwrap();
        let step = Step { gradient_scale: 1.0, ..Default::default() };
        check::run_step(&context, step, |r| gradient_norm(r, &state, Some(1.0))).unwrap();
        let clip: Vec<f32> = context.read(&state.clip, 0, 2).await.unwrap();
        assert!(!clip[1].is_finite());
    }
}
