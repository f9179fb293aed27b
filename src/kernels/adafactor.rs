//! Adafactor (Shazeer and Stern, 2018) as `mlx.optimizers.Adafactor` has it, without a first moment: of
//! the gradients' squares it keeps the means of rows and columns alone.

use super::ONE;
use super::optimizer::{OptimizerArray, PLACES, Place, Rule, THREADS, parity as compare};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder, Step};

const LINES: Kernel = Kernel {
    name: "adafactor_lines",
    source: &[
        include_str!("step.wgsl"),
        include_str!("place.wgsl"),
        include_str!("adafactor_lines.wgsl"),
        include_str!("optimizer.wgsl"),
    ],
    storage: &[Read, Read, Read, Write],
};
const SCALE: Kernel = Kernel {
    name: "adafactor_scale",
    source: &[
        include_str!("step.wgsl"),
        include_str!("place.wgsl"),
        include_str!("adafactor_scale.wgsl"),
        include_str!("adafactor_means.wgsl"),
        include_str!("optimizer.wgsl"),
    ],
    storage: &[Read, Read, Read, Read, Read, Write],
};
const UPDATE: Kernel = Kernel {
    name: "adafactor",
    source: &[
        include_str!("step.wgsl"),
        include_str!("place.wgsl"),
        include_str!("adafactor.wgsl"),
        include_str!("adafactor_means.wgsl"),
        include_str!("optimizer.wgsl"),
    ],
    storage: &[Read, Read, Read, Read, Read, Write],
};

/// Lines that a workgroup of `adafactor_lines.wgsl` does.
const GROUP_LINES: usize = 32;

/// The constants of `mlx.optimizers.Adafactor`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adafactor {
    /// Added to the squares of the gradients, and the least scale of a parameter.
    pub eps: [f32; 2],
    /// The root mean square that an update is scaled down to.
    pub clip_threshold: f32,
    /// Of the time, which gives the decay of the means: 1 − tᵈ.
    pub decay_rate: f32,
    /// Decoupled; 0 is none.
    pub weight_decay: f32,
    /// Whether steps are as large as the parameters are.
    pub scale_parameter: bool,
    /// Whether the step size is min(10⁻², 1/√t) and not the learning rate.
    pub relative_step: bool,
    /// Whether relative steps begin at 10⁻⁶ t.
    pub warmup_init: bool,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self {
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
        }
    }
}

/// Means that are kept of an array.
pub(super) fn lines(places: &[Place]) -> usize {
    places.iter().map(|place| lines_of(place) as usize).sum()
}

fn lines_of(place: &Place) -> u32 {
    place.rows + if place.is_vector == 1 { 0 } else { place.cols }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LinesParams {
    decay_rate: f32,
    eps: f32,
    pad: [u32; 2],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScaleParams {
    eps: f32,
    clip_threshold: f32,
    scale_parameter: u32,
    relative_step: u32,
    warmup_init: u32,
    pad: [u32; 3],
}

/// Records a step over one array.
pub(super) fn adafactor(
    r: &mut Recorder,
    array: &OptimizerArray,
    clip: &Buffer,
    rule: Adafactor,
) -> Result<()> {
    let mut end = 0;
    let mut place = |place: &Place| {
        let at = end;
        end += lines_of(place);
        Place { at, ..*place }
    };
    let places: Vec<Place> = array.parameters.places.iter().map(&mut place).collect();
    let count = Extent::Fixed(places.len() as u32);
    let context = r.context().clone();
    let table = context.storage_from("places", &places)?;
    let scales = context.storage("adafactor scales", (places.len() * 16) as u64)?;
    let (values, gradients) = (&array.parameters.values, &array.parameters.gradients);
    let means = &array.first.0;
    let params = LinesParams { decay_rate: rule.decay_rate, eps: rule.eps[0], pad: [0; 2] };
    for (columns, longest) in [
        (0.0, places.iter().map(|place| place.rows).max()),
        (1.0, places.iter().map(|place| place.cols).max()),
    ] {
        let bindings = [(&table).into(), gradients.into(), clip.into(), means.into()];
        let grid = [Extent::cover(longest.unwrap_or(0) as usize, GROUP_LINES), count, ONE];
        r.dispatch(&LINES, &[("COLUMNS", columns)], &params, &bindings, grid)?;
    }
    let params = ScaleParams {
        eps: rule.eps[1],
        clip_threshold: rule.clip_threshold,
        scale_parameter: rule.scale_parameter.into(),
        relative_step: rule.relative_step.into(),
        warmup_init: rule.warmup_init.into(),
        pad: [0; 3],
    };
    let bindings = [
        (&table).into(),
        gradients.into(),
        values.into(),
        clip.into(),
        means.into(),
        (&scales).into(),
    ];
    r.dispatch(&SCALE, &[], &params, &bindings, [count, ONE, ONE])?;
    let largest = places.iter().map(|place| place.rows as usize * place.cols as usize).max();
    let groups = largest.unwrap_or(0).div_ceil(THREADS).clamp(1, 1024) as u32;
    let params = [rule.weight_decay, 0.0, 0.0, 0.0];
    let bindings = [
        (&table).into(),
        gradients.into(),
        clip.into(),
        means.into(),
        (&scales).into(),
        values.into(),
    ];
    r.dispatch(&UPDATE, &[], &params, &bindings, [Extent::Fixed(groups), count, ONE])
}

/// The reference of one step over a matrix (rows, cols), or a vector if `cols` is none: parameters and
/// means, rows before columns, updated in place.
pub fn reference(
    step: &Step,
    gradients: &[f64],
    rule: Adafactor,
    parameters: &mut [f64],
    means: &mut [f64],
    cols: Option<usize>,
) {
    let width = cols.unwrap_or(1);
    let rows = gradients.len() / width;
    let (t, rms) = (f64::from(step.update), |values: &[f64]| {
        (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
    });
    let rest = t.powf(f64::from(rule.decay_rate));
    let mut follow = |at: usize, squares: &mut dyn Iterator<Item = f64>, length: usize| {
        let mean = squares.sum::<f64>() / length as f64 + f64::from(rule.eps[0]);
        means[at] = (1.0 - rest) * means[at] + rest * mean;
    };
    for (row, of_row) in gradients.chunks_exact(width).enumerate() {
        follow(row, &mut of_row.iter().map(|g| g * g), width);
    }
    for col in 0..cols.unwrap_or(0) {
        follow(rows + col, &mut gradients.iter().skip(col).step_by(width).map(|g| g * g), rows);
    }
    let mean = means[..rows].iter().sum::<f64>() / rows as f64;
    let scale = |i: usize| match cols {
        None => 1.0 / means[i].sqrt(),
        Some(_) => 1.0 / (means[i / width] / mean * means[rows + i % width]).sqrt(),
    };
    let update: Vec<f64> = gradients.iter().enumerate().map(|(i, g)| g * scale(i)).collect();
    let least = if rule.warmup_init { 1e-6 * t } else { 1e-2 };
    let mut lr = match rule.relative_step {
        true => (1.0 / t.sqrt()).min(least),
        false => f64::from(step.learning_rate),
    };
    if rule.scale_parameter {
        lr *= rms(parameters).max(f64::from(rule.eps[1]));
    }
    let clipped = lr / (rms(&update) / f64::from(rule.clip_threshold)).max(1.0);
    for (p, u) in parameters.iter_mut().zip(update) {
        *p = *p * (1.0 - f64::from(rule.weight_decay) * lr) - clipped * u;
    }
}

/// Compares kernels and reference.
pub async fn parity(context: &Context, rule: Adafactor) -> Result<()> {
    let mut means = PLACES.map(|(_, rows, cols, _)| vec![0.0; rows + cols]);
    let mut one = |step: &Step, gradients: &[f64], parameters: &mut [f64], place: usize| {
        let (_, _, cols, is_vector) = PLACES[place];
        let cols = (!is_vector).then_some(cols);
        reference(step, gradients, rule, parameters, &mut means[place], cols);
    };
    compare(context, "adafactor", Rule::Adafactor(rule), 1e-5, &mut one).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::test_context;
    use crate::testing::async_test;

    #[async_test]
    async fn steps_match_the_reference() {
        let context = test_context().await;
        let given = Adafactor {
            relative_step: false,
            scale_parameter: false,
            weight_decay: 0.1,
            clip_threshold: 0.5,
            ..Adafactor::default()
        };
        let warm = Adafactor { warmup_init: true, ..Adafactor::default() };
        for rule in [Adafactor::default(), given, warm] {
            parity(&context, rule).await.unwrap();
        }
    }
}
