//! Muon (Jordan et al., 2024) as `mlx.optimizers.Muon` has it: momentum, made orthogonal by
//! Newton–Schulz iterations where it is a matrix.

use super::ONE;
use super::optimizer::{OptimizerArray, PLACES, Place, Rule, THREADS, parity as compare};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder, Step};

const MOMENTUM: Kernel = Kernel {
    name: "muon_momentum",
    source: &[
        include_str!("step.wgsl"),
        include_str!("place.wgsl"),
        include_str!("muon_momentum.wgsl"),
        include_str!("optimizer.wgsl"),
    ],
    storage: &[Read, Read, Read, Read, Write, Write],
};
const NORM: Kernel = Kernel {
    name: "muon_norm",
    source: &[
        include_str!("step.wgsl"),
        include_str!("place.wgsl"),
        include_str!("muon_norm.wgsl"),
    ],
    storage: &[Read, Write],
};
const PRODUCT: Kernel = Kernel {
    name: "muon_product",
    source: &[
        include_str!("step.wgsl"),
        include_str!("place.wgsl"),
        include_str!("muon_product.wgsl"),
    ],
    storage: &[Read, Read, Read, Write],
};
const UPDATE: Kernel = Kernel {
    name: "muon",
    source: &[
        include_str!("step.wgsl"),
        include_str!("place.wgsl"),
        include_str!("muon.wgsl"),
        include_str!("optimizer.wgsl"),
    ],
    storage: &[Read, Read, Read, Read, Write],
};

/// The coefficients of an iteration, a, b and c.
const NEWTON_SCHULZ: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Added to the norm that a matrix is divided by.
const EPS: f32 = 1e-7;
/// Side of a tile of `muon_product.wgsl`.
const TILE: usize = 16;

/// The constants of `mlx.optimizers.Muon`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// What is kept of the momentum.
    pub momentum: f32,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Added to the gradients, times the parameters.
    pub weight_decay: f32,
    /// Newton–Schulz iterations.
    pub ns_steps: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    momentum: f32,
    nesterov: u32,
    weight_decay: f32,
    pad: u32,
}

/// Records a step over one array.
pub(super) fn muon(
    r: &mut Recorder,
    array: &OptimizerArray,
    clip: &Buffer,
    muon: Muon,
) -> Result<()> {
    let mut end = 0;
    let mut place = |place: &Place| {
        let scratch = end;
        let short = if place.is_vector == 1 { 0 } else { place.rows.min(place.cols) };
        end += short * short;
        Place { scratch, ..*place }
    };
    let places: Vec<Place> = array.parameters.places.iter().map(&mut place).collect();
    let matrices = || places.iter().filter(|place| place.is_vector == 0);
    let short = matrices().map(|place| place.rows.min(place.cols)).max().unwrap_or(0) as usize;
    let long = matrices().map(|place| place.rows.max(place.cols)).max().unwrap_or(0) as usize;
    let largest = places.iter().map(|place| place.rows as usize * place.cols as usize).max();

    let context = r.context().clone();
    let zeroed = |label, count: usize| context.storage(label, (count * 4) as u64);
    let table = context.storage_from("places", &places)?;
    let count = array.parameters.count;
    let mut x = zeroed("muon update", count)?;
    let vectors = x.clone();
    let mut y = zeroed("muon update", count)?;
    let [a, b] = [zeroed("muon gram", end as usize)?, zeroed("muon gram", end as usize)?];

    let (values, gradients) = (&array.parameters.values, &array.parameters.gradients);
    let every = Extent::Fixed(places.len() as u32);
    let groups = Extent::Fixed(largest.unwrap_or(0).div_ceil(THREADS).clamp(1, 1024) as u32);
    let Muon { momentum, nesterov, weight_decay, ns_steps } = muon;
    let params = Params { momentum, nesterov: nesterov.into(), weight_decay, pad: 0 };
    let bindings = [
        (&table).into(),
        gradients.into(),
        clip.into(),
        values.into(),
        (&array.first.0).into(),
        (&x).into(),
    ];
    r.dispatch(&MOMENTUM, &[], &params, &bindings, [groups, every, ONE])?;
    if short > 0 {
        let eps = [EPS, 0.0, 0.0, 0.0];
        r.dispatch(&NORM, &[], &eps, &[(&table).into(), (&x).into()], [every, ONE, ONE])?;
        let [first, second, third] = NEWTON_SCHULZ;
        let params = [first, second, third, 0.0];
        let (short, long) = (Extent::cover(short, TILE), Extent::cover(long, TILE));
        for _ in 0..ns_steps {
            for (which, left, right, product, columns) in
                [(0.0, &x, &x, &a, short), (1.0, &a, &a, &b, short), (2.0, &b, &x, &y, long)]
            {
                let bindings = [(&table).into(), left.into(), right.into(), product.into()];
                let grid = [columns, short, every];
                r.dispatch(&PRODUCT, &[("PRODUCT", which)], &params, &bindings, grid)?;
            }
            std::mem::swap(&mut x, &mut y);
        }
    }
    let bindings = [(&table).into(), clip.into(), (&x).into(), (&vectors).into(), values.into()];
    r.dispatch(&UPDATE, &[], &[0u32; 4], &bindings, [groups, every, ONE])
}

/// The reference of one step over a matrix (rows, cols), or a vector if `cols` is none: parameters and
/// momentum, updated in place.
pub fn reference(
    step: &Step,
    gradients: &[f64],
    muon: Muon,
    parameters: &mut [f64],
    velocity: &mut [f64],
    cols: Option<usize>,
) {
    let (momentum, decay) = (f64::from(muon.momentum), f64::from(muon.weight_decay));
    let mut update = Vec::new();
    for ((p, g), v) in parameters.iter().zip(gradients).zip(velocity) {
        let g = g + decay * p;
        *v = momentum * *v + (1.0 - momentum) * g;
        update.push(if muon.nesterov { (1.0 - momentum) * g + momentum * *v } else { *v });
    }
    let mut scale = f64::from(step.learning_rate);
    if let Some(cols) = cols {
        let rows = update.len() / cols;
        update = orthogonal(&update, rows, cols, muon.ns_steps);
        scale *= (rows as f64 / cols as f64).max(1.0).sqrt();
    }
    for (p, u) in parameters.iter_mut().zip(update) {
        *p -= scale * u;
    }
}

fn orthogonal(x: &[f64], rows: usize, cols: usize, steps: u32) -> Vec<f64> {
    let transposed = |x: &[f64], rows: usize, cols: usize| -> Vec<f64> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    };
    if rows > cols {
        let turned = orthogonal(&transposed(x, rows, cols), cols, rows, steps);
        return transposed(&turned, cols, rows);
    }
    let product = |l: &[f64], r: &[f64], inner: usize, cols: usize| -> Vec<f64> {
        let one = |i: usize, j: usize| {
            (0..inner).map(|k| l[i * inner + k] * r[k * cols + j]).sum::<f64>()
        };
        (0..l.len() / inner).flat_map(|i| (0..cols).map(move |j| one(i, j))).collect()
    };
    let [a, b, c] = NEWTON_SCHULZ.map(f64::from);
    let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt() + f64::from(EPS);
    let mut x: Vec<f64> = x.iter().map(|v| v / norm).collect();
    for _ in 0..steps {
        let gram = product(&x, &transposed(&x, rows, cols), cols, rows);
        let squared = product(&gram, &gram, rows, rows);
        let poly: Vec<f64> = gram.iter().zip(&squared).map(|(g, s)| b * g + c * s).collect();
        let turned = product(&poly, &x, rows, cols);
        x = x.iter().zip(&turned).map(|(x, t)| a * x + t).collect();
    }
    x
}

/// Compares kernels and reference.
pub async fn parity(context: &Context, muon: Muon) -> Result<()> {
    let mut velocity = PLACES.map(|(_, rows, cols, _)| vec![0.0; rows * cols]);
    let mut one = |step: &Step, gradients: &[f64], parameters: &mut [f64], place: usize| {
        let (_, _, cols, is_vector) = PLACES[place];
        let cols = (!is_vector).then_some(cols);
        reference(step, gradients, muon, parameters, &mut velocity[place], cols);
    };
    compare(context, "muon", Rule::Muon(muon), 1e-5, &mut one).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::test_context;
    use crate::testing::async_test;

    #[async_test]
    async fn steps_match_the_reference() {
        let context = test_context().await;
        for (nesterov, weight_decay, ns_steps) in [(true, 0.01, 5), (false, 0.0, 2)] {
            let muon = Muon { momentum: 0.95, nesterov, weight_decay, ns_steps };
            parity(&context, muon).await.unwrap();
        }
    }
}
