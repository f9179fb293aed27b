//! What every update rule has in common: the arrays of parameters, their gradients and what is kept of
//! the past, and the norm of the gradients with the clipping that follows from it.

use super::adafactor::Adafactor;
use super::adam::Adam;
use super::muon::Muon;
use super::sgd::Sgd;
use super::{ONE, check};
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder, Step};
use crate::{Error, Result};

const NORM: Kernel = Kernel {
    name: "gradient_norm",
    source: &[include_str!("step.wgsl"), include_str!("gradient_norm.wgsl")],
    storage: &[Read, Write, Write],
};

/// Threads of a workgroup of all rules' kernels, and the most workgroups whose partial sums one
/// workgroup adds up.
pub(super) const THREADS: usize = 256;

/// An update rule with its constants; see [`Step`] for what changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Adam and AdamW.
    Adam(Adam),
    /// Gradient descent, with momentum or without.
    Sgd(Sgd),
    /// Adafactor.
    Adafactor(Adafactor),
    /// Muon.
    Muon(Muon),
}

/// A matrix or a vector in an array of parameters, row-major.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Place {
    /// Its first value in the array.
    pub offset: u32,
    /// Rows; the length of a vector.
    pub rows: u32,
    /// Columns; 1 of a vector.
    pub cols: u32,
    /// From row to row.
    pub stride: u32,
    /// 1 if it is a vector and not a matrix of one column.
    pub is_vector: u32,
    /// The rule's own: where what it keeps of the matrix begins.
    pub at: u32,
    /// The rule's own.
    pub scratch: u32,
    /// Nothing.
    pub pad: u32,
}

impl Place {
    /// A matrix of `rows` by `cols`.
    pub fn matrix(offset: usize, rows: usize, cols: usize, stride: usize) -> Self {
        let [offset, rows, cols, stride] = [offset, rows, cols, stride].map(|v| v as u32);
        Self { offset, rows, cols, stride, is_vector: 0, at: 0, scratch: 0, pad: 0 }
    }

    /// A vector.
    pub fn vector(offset: usize, length: usize) -> Self {
        Self { is_vector: 1, ..Self::matrix(offset, length, 1, 1) }
    }
}

/// Parameters of one buffer.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// (count) f32
    pub values: Buffer,
    /// (count) f32, the sum over micro-batches.
    pub gradients: Buffer,
    /// How many.
    pub count: usize,
    /// What they are, without gaps that matter: what is between is 0 and has no gradient.
    pub places: Vec<Place>,
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
    rule: Rule,
}

/// [`Parameters`], and what the rule keeps of their past.
#[derive(Debug, Clone)]
pub struct OptimizerArray {
    /// The parameters.
    pub parameters: Parameters,
    /// Adam's first moments, momentum, Adafactor's means of squares; and how many.
    pub first: (Buffer, usize),
    /// Adam's second moments; and how many.
    pub second: (Buffer, usize),
}

impl OptimizerState {
    /// For parameters that nothing was done to yet.
    ///
    /// # Errors
    /// More parameters in an array than kernels count; too little memory.
    pub fn new(
        context: &Context,
        arrays: impl IntoIterator<Item = Parameters>,
        rule: Rule,
    ) -> Result<Self> {
        let array = |parameters: Parameters| {
            let count = parameters.count;
            if u32::try_from(count).is_err() {
                return Err(Error::Gpu(format!("an array of {count} parameters is too large")));
            }
            let [first, second] = rule.kept(&parameters);
            let zeroed = |label, count: usize| context.storage(label, (count * 4) as u64);
            let first = (zeroed("first moments", first)?, first);
            let second = (zeroed("second moments", second)?, second);
            Ok(OptimizerArray { parameters, first, second })
        };
        let arrays: Vec<OptimizerArray> = arrays.into_iter().map(array).collect::<Result<_>>()?;
        let partial = context.storage("partial norms", (arrays.len() * THREADS * 4) as u64)?;
        Ok(Self { arrays, clip: context.storage("clip", 8)?, partial, rule })
    }

    /// Parameters of all arrays.
    pub fn count(&self) -> usize {
        self.arrays.iter().map(|array| array.parameters.count).sum()
    }

    /// Records an update of every array, after [`gradient_norm`].
    ///
    /// # Errors
    /// Too little memory.
    pub fn update(&self, r: &mut Recorder) -> Result<()> {
        for array in &self.arrays {
            match self.rule {
                Rule::Adam(adam) => super::adam::adam(r, array, &self.clip, adam)?,
                Rule::Sgd(sgd) => super::sgd::sgd(r, array, &self.clip, sgd)?,
                Rule::Adafactor(rule) => super::adafactor::adafactor(r, array, &self.clip, rule)?,
                Rule::Muon(muon) => super::muon::muon(r, array, &self.clip, muon)?,
            }
        }
        Ok(())
    }
}

impl Rule {
    /// How many values it keeps of the past of `parameters`, in two arrays.
    fn kept(&self, parameters: &Parameters) -> [usize; 2] {
        let count = parameters.count;
        match self {
            Rule::Adam(_) => [count, count],
            Rule::Sgd(sgd) if sgd.momentum == 0.0 => [0, 0],
            Rule::Sgd(_) | Rule::Muon(_) => [count, 0],
            Rule::Adafactor(_) => [super::adafactor::lines(&parameters.places), 0],
        }
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

/// Records the global norm of the gradients, times `gradient_scale`, and the factor that brings it
/// down to `max_norm` (`None`: 1), into [`OptimizerState::clip`].
pub fn gradient_norm(
    r: &mut Recorder,
    state: &OptimizerState,
    max_norm: Option<f32>,
) -> Result<()> {
    let max_norm = max_norm.unwrap_or(0.0);
    let bindings = |array: &OptimizerArray| {
        [array.parameters.gradients.clone(), state.partial.clone(), state.clip.clone()]
    };
    for (i, array) in state.arrays.iter().enumerate() {
        let count = array.parameters.count;
        let groups = Extent::Fixed(count.div_ceil(THREADS).clamp(1, THREADS) as u32);
        let (count, first) = (count as u32, (i * THREADS) as u32);
        let params = NormParams { count, finish: 0, max_norm, first };
        let buffers = bindings(array);
        r.dispatch(&NORM, &[], &params, &buffers.each_ref().map(Into::into), [groups, ONE, ONE])?;
    }
    // What is bound in the gradients' place is not read.
    let Some(array) = state.arrays.first() else { return Ok(()) };
    let params = NormParams { count: 0, finish: 1, max_norm, first: 0 };
    let buffers = bindings(array);
    r.dispatch(&NORM, &[], &params, &buffers.each_ref().map(Into::into), [ONE; 3])
}

/// Workgroups for `count` values, where a thread does several if there are many.
pub(super) fn groups(count: usize) -> Extent {
    Extent::Fixed(count.div_ceil(THREADS).clamp(1, 4096) as u32)
}

/// What a rule does to one matrix or vector, in f64: `parameters` and what is kept, in place.
pub(super) type Reference<'a> = dyn FnMut(&Step, &[f64], &mut [f64], usize) + 'a;

/// The two matrices and the vector that rules are compared on, between values that are nobody's.
pub(super) const PLACES: [(usize, usize, usize, bool); 3] =
    [(1, 5, 3, false), (20, 3, 70, false), (231, 9, 1, true)];

/// Compares three steps of a rule, the last with clipping, with `reference`, which gets the step, the
/// gradients times scale and clipping, the parameters and which of [`PLACES`] they are.
pub(super) async fn parity(
    context: &Context,
    name: &str,
    rule: Rule,
    tolerance: f32,
    reference: &mut Reference<'_>,
) -> Result<()> {
    let count = 241;
    let place = |&(offset, rows, cols, is_vector): &(usize, usize, usize, bool)| match is_vector {
        true => Place::vector(offset, rows),
        false => Place::matrix(offset, rows, cols, cols),
    };
    let places: Vec<Place> = PLACES.iter().map(place).collect();
    let inside = |i: usize| {
        PLACES.iter().any(|(offset, rows, cols, _)| (*offset..offset + rows * cols).contains(&i))
    };
    let only = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().enumerate().map(|(i, v)| if inside(i) { v } else { 0.0 }).collect()
    };
    let mut expected: Vec<f64> = only(check::noise(1, count)).into_iter().map(f64::from).collect();
    let start: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
    let parameters = Parameters {
        values: context.storage_from("parameters", &start)?,
        gradients: context.storage("gradients", (count * 4) as u64)?,
        count,
        places,
    };
    let state = OptimizerState::new(context, [parameters], rule)?;
    let array = &state.arrays[0];
    for t in 1..=3u32 {
        let gradients = only(check::noise(1 + u64::from(t), count));
        context.write(&array.parameters.gradients, 0, bytemuck::cast_slice(&gradients));
        let most = (t == 3).then_some(0.5);
        let step = Step {
            learning_rate: 0.01,
            gradient_scale: 0.5,
            first_moment_scale: 1.0 / (1.0 - 0.9f32.powi(t as i32)),
            second_moment_scale: 1.0 / (1.0 - 0.999f32.powi(t as i32)),
            update: t,
            ..Default::default()
        };
        check::run_step(context, step, |r| {
            gradient_norm(r, &state, most)?;
            state.update(r)
        })?;
        let squares: f64 = gradients.iter().map(|&g| f64::from(g).powi(2)).sum();
        let norm = 0.5 * squares.sqrt();
        let clip = most.map_or(1.0, |most| (f64::from(most) / (norm + 1e-6)).min(1.0));
        let found: Vec<f32> = context.read(&state.clip, 0, 2).await?;
        check::close("gradient_norm", &found, &[clip as f32, norm as f32], 1e-6, 1e-5)?;
        let scaled: Vec<f64> = gradients.iter().map(|&g| f64::from(g) * 0.5 * clip).collect();
        for (i, (offset, rows, cols, _)) in PLACES.iter().enumerate() {
            let range = *offset..offset + rows * cols;
            reference(&step, &scaled[range.clone()], &mut expected[range], i);
        }
    }
    let expected: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
    let actual = context.read(&array.parameters.values, 0, count).await?;
    check::close(name, &actual, &expected, tolerance, tolerance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn the_norm_is_of_all_arrays_and_shows_what_is_not_finite() {
        let context = check::test_context().await;
        let array = |gradients: &[f32]| Parameters {
            values: context.storage("values", (gradients.len() * 4) as u64).unwrap(),
            gradients: context.storage_from("gradients", gradients).unwrap(),
            count: gradients.len(),
            places: Vec::new(),
        };
        for (lengths, bad) in [(vec![1], false), (vec![257, 70_001], false), (vec![3, 2], true)] {
            let mut gradients: Vec<Vec<f32>> =
                lengths.iter().map(|&n| check::noise(n as u64, n)).collect();
            if bad {
                gradients[1][1] = f32::NAN;
            }
            let rule = Rule::Sgd(Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 });
            let arrays = gradients.iter().map(|g| array(g));
            let state = OptimizerState::new(&context, arrays, rule).unwrap();
            let step = Step { gradient_scale: 1.0, ..Default::default() };
            check::run_step(&context, step, |r| gradient_norm(r, &state, Some(1.0))).unwrap();
            let clip: Vec<f32> = context.read(&state.clip, 0, 2).await.unwrap();
            let squares = gradients.iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>();
            let norm = squares.sqrt() as f32;
            assert!(if bad { !clip[1].is_finite() } else { (clip[1] / norm - 1.0).abs() < 1e-5 });
        }
    }
}
