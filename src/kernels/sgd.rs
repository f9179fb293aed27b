//! Gradient descent, with momentum or without.

use super::ONE;
use super::optimizer::{OptimizerArray, PLACES, Rule, groups, parity as compare};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder, Step};

const KERNEL: Kernel = Kernel {
    name: "sgd",
    source: &[include_str!("step.wgsl"), include_str!("sgd.wgsl"), include_str!("optimizer.wgsl")],
    storage: &[Read, Read, Write, Write],
};

/// The constants of `torch.optim.SGD` and `mlx.optimizers.SGD`, without dampening.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// What is kept of the last change; 0 is plain descent.
    pub momentum: f32,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Added to the gradients, times the parameters.
    pub weight_decay: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    momentum: f32,
    nesterov: u32,
    weight_decay: f32,
}

/// Records a step over one array.
pub(super) fn sgd(r: &mut Recorder, array: &OptimizerArray, clip: &Buffer, sgd: Sgd) -> Result<()> {
    let count = array.parameters.count;
    let Sgd { momentum, nesterov, weight_decay } = sgd;
    let params = Params { count: count as u32, momentum, nesterov: nesterov.into(), weight_decay };
    let bindings = [
        (&array.parameters.gradients).into(),
        clip.into(),
        (&array.parameters.values).into(),
        (&array.first.0).into(),
    ];
    let constants = [("MOMENTUM", f64::from(u8::from(momentum != 0.0)))];
    r.dispatch(&KERNEL, &constants, &params, &bindings, [groups(count), ONE, ONE])
}

/// The reference of one step: parameters and velocity, updated in place.
pub fn reference(
    step: &Step,
    gradients: &[f64],
    sgd: Sgd,
    parameters: &mut [f64],
    velocity: &mut [f64],
) {
    let (momentum, decay) = (f64::from(sgd.momentum), f64::from(sgd.weight_decay));
    for ((p, g), v) in parameters.iter_mut().zip(gradients).zip(velocity) {
        let g = g + decay * *p;
        *v = momentum * *v + g;
        let change = if sgd.nesterov { g + momentum * *v } else { *v };
        *p -= f64::from(step.learning_rate) * change;
    }
}

/// Compares kernel and reference.
pub async fn parity(context: &Context, sgd: Sgd) -> Result<()> {
    let mut velocity = PLACES.map(|(_, rows, cols, _)| vec![0.0; rows * cols]);
    let mut one = |step: &Step, gradients: &[f64], parameters: &mut [f64], place: usize| {
        reference(step, gradients, sgd, parameters, &mut velocity[place]);
    };
    compare(context, "sgd", Rule::Sgd(sgd), 1e-6, &mut one).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::test_context;
    use crate::testing::async_test;

    #[async_test]
    async fn steps_match_the_reference() {
        let context = test_context().await;
        for (momentum, nesterov, weight_decay) in
            [(0.0, false, 0.0), (0.9, false, 0.1), (0.9, true, 0.0)]
        {
            parity(&context, Sgd { momentum, nesterov, weight_decay }).await.unwrap();
        }
    }
}
