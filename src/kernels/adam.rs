//! Adam and AdamW.

use super::ONE;
use super::optimizer::{OptimizerArray, PLACES, Rule, groups, parity as compare};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder, Step};

const KERNEL: Kernel = Kernel {
    name: "adam",
    source: &[include_str!("step.wgsl"), include_str!("adam.wgsl"), include_str!("optimizer.wgsl")],
    storage: &[Read, Read, Write, Write, Write],
};

/// Adam's constants.
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

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    eps: f32,
    weight_decay: f32,
    pad: u32,
}

/// Records a step over one array. [`Step`]'s moment scales correct the bias, or are 1.
pub(super) fn adam(
    r: &mut Recorder,
    array: &OptimizerArray,
    clip: &Buffer,
    adam: Adam,
) -> Result<()> {
    let count = array.parameters.count;
    let params = Params {
        count: count as u32,
        beta1: adam.beta1 as f32,
        beta2: adam.beta2 as f32,
        rest1: (1.0 - adam.beta1) as f32,
        rest2: (1.0 - adam.beta2) as f32,
        eps: adam.eps,
        weight_decay: adam.weight_decay,
        pad: 0,
    };
    let bindings = [
        (&array.parameters.gradients).into(),
        clip.into(),
        (&array.parameters.values).into(),
        (&array.first.0).into(),
        (&array.second.0).into(),
    ];
    r.dispatch(&KERNEL, &[], &params, &bindings, [groups(count), ONE, ONE])
}

/// The reference of one step: parameters and both moments, updated in place.
pub fn reference(
    step: &Step,
    gradients: &[f64],
    adam: Adam,
    parameters: &mut [f64],
    moments: &mut [Vec<f64>; 2],
) {
    let lr = f64::from(step.learning_rate);
    let [first, second] = moments;
    for (i, p) in parameters.iter_mut().enumerate() {
        let g = gradients[i];
        first[i] = adam.beta1 * first[i] + (1.0 - adam.beta1) * g;
        second[i] = adam.beta2 * second[i] + (1.0 - adam.beta2) * g * g;
        let scale = (second[i] * f64::from(step.second_moment_scale)).sqrt() + f64::from(adam.eps);
        *p *= 1.0 - lr * f64::from(adam.weight_decay);
        *p -= lr * first[i] * f64::from(step.first_moment_scale) / scale;
    }
}

/// Compares kernel and reference.
pub async fn parity(context: &Context, weight_decay: f32) -> Result<()> {
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay };
    let mut moments = PLACES.map(|(_, rows, cols, _)| [(); 2].map(|()| vec![0.0; rows * cols]));
    let mut one = |step: &Step, gradients: &[f64], parameters: &mut [f64], place: usize| {
        reference(step, gradients, adam, parameters, &mut moments[place]);
    };
    compare(context, "adam", Rule::Adam(adam), 1e-6, &mut one).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::test_context;
    use crate::testing::async_test;

    #[async_test]
    async fn steps_match_the_reference() {
        let context = test_context().await;
        for weight_decay in [0.0, 0.1] {
            parity(&context, weight_decay).await.unwrap();
        }
    }
}
