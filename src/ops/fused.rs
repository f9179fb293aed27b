//! The halves of a block for one decoded token, in two or three dispatches each.

use super::gpu::{GpuLora, GpuOps};
use super::{Adapted, Norm};
use crate::Result;
use crate::gpu::Buffer;
use crate::kernels::Tensor;
use crate::kernels::attention::AttentionShape;
use crate::kernels::attention_step::{Narrow, Pending, Projected, attention_step};
use crate::kernels::gate::{gate, shares};
use crate::kernels::matvec::{Down, Extras, Gate, Up, matvec};
use crate::kernels::weight::Matrix;

type Layer<'a> = Adapted<'a, Matrix, Buffer, GpuLora>;

/// Layers of one input whose weights are one matrix.
struct Joint<'a> {
    weight: Matrix,
    /// Where each layer's rows begin.
    starts: Vec<usize>,
    /// The products' columns, the updates' h behind them.
    cols: usize,
    down: Vec<Down<'a>>,
    pending: Vec<Option<Pending<'a>>>,
}

impl<'a> Joint<'a> {
    /// `None` if their weights aren't.
    fn of(layers: &[&Layer<'a>]) -> Option<Self> {
        if layers.iter().any(|l| l.layer.bias.is_some()) {
            return None;
        }
        let weights: Vec<&Matrix> = layers.iter().map(|l| &l.layer.weight).collect();
        let (weight, starts) = Matrix::whole(&weights)?;
        let (mut cols, mut down, mut pending) = (weight.rows(), Vec::new(), Vec::new());
        for layer in layers {
            pending.push(layer.update.map(|lora| {
                let (at, rank) = (cols, lora.rank);
                cols += rank;
                down.push(Down { a: lora.a.param(), rank, at });
                Pending { b: lora.b.param(), rank, at, scale: lora.scale }
            }));
        }
        Some(Self { weight, starts, cols, down, pending })
    }
}

/// Whether the kernels can take the updates: all in one buffer, none of them DoRA's.
fn in_one_buffer(layers: &[Layer<'_>]) -> bool {
    let mut updates = layers.iter().filter_map(|layer| layer.update);
    let Some(first) = updates.clone().next() else { return true };
    updates.all(|lora| {
        let both = [&lora.a, &lora.b];
        lora.magnitude.is_none() && both.iter().all(|p| *p.buffer == *first.a.buffer)
    })
}

impl GpuOps {
    /// [`Ops::self_attention`](super::Ops::self_attention) of one token with a cache: `None` if the
    /// kernels can't.
    pub(super) fn attention_of_one(
        &mut self,
        layer: usize,
        x: &Tensor,
        norm: &Norm<'_, Buffer>,
        layers: &[Layer<'_>; 4],
        shape: AttentionShape,
    ) -> Result<Option<Tensor>> {
        let [q, k, v, o] = layers;
        if self.capacity != 1 || !in_one_buffer(layers) {
            return Ok(None);
        }
        let (Some(joint), Some(cache)) = (Joint::of(&[q, k, v]), self.cache_of(layer)?) else {
            return Ok(None);
        };
        let (&[_, k_at, v_at], &[q_up, k_up, v_up]) = (&joint.starts[..], &joint.pending[..])
        else {
            return Ok(None);
        };
        let qkv = self.project(x, norm, &joint)?;

        let (cols, rank) = (q.layer.weight.rows(), o.update.map_or(0, |lora| lora.rank));
        let mixed = self.pool.tensor(1, cols + shape.heads * rank)?;
        let projected = Projected { qkv: &qkv, kv_at: [k_at, v_at], pending: [q_up, k_up, v_up] };
        attention_step(
            &mut self.recorder,
            &projected,
            (&self.tokens, &self.rope_table),
            (&cache.0, &cache.1, cache.2),
            shape,
            o.update.map(|lora| Narrow { a: lora.a.param(), rank, at: cols }),
            &mixed,
        )?;
        self.close(&mixed, cols, shape.heads, o, x).map(Some)
    }

    /// [`Ops::mlp`](super::Ops::mlp) of one token: `None` if the kernels can't.
    pub(super) fn mlp_of_one(
        &mut self,
        x: &Tensor,
        norm: &Norm<'_, Buffer>,
        layers: &[Layer<'_>; 3],
    ) -> Result<Option<Tensor>> {
        let [gate_layer, up_layer, down_layer] = layers;
        if self.capacity != 1 || !in_one_buffer(layers) {
            return Ok(None);
        }
        let Some(joint) = Joint::of(&[gate_layer, up_layer]) else { return Ok(None) };
        let (&[_, second], &[gate_up, up_up]) = (&joint.starts[..], &joint.pending[..]) else {
            return Ok(None);
        };
        let cols = gate_layer.layer.weight.rows();
        if layers.iter().all(|layer| layer.update.is_none()) {
            let gated = self.pool.tensor(1, cols)?;
            let extras = Extras {
                norm: Some((norm.weight, norm.eps)),
                gate: Some(Gate { outs: cols, distance: second }),
                ..Extras::default()
            };
            matvec(&mut self.recorder, x, &joint.weight, extras, &gated)?;
            return self.close(&gated, cols, 0, down_layer, x).map(Some);
        }
        let both = self.project(x, norm, &joint)?;
        let rank = down_layer.update.map_or(0, |lora| lora.rank);
        let gated = self.pool.tensor(1, cols + shares(cols) * rank)?;
        let down = down_layer.update.map(|lora| Narrow { a: lora.a.param(), rank, at: cols });
        let pending = [gate_up, up_up];
        gate(&mut self.recorder, &both, (cols, second), pending, down, &gated)?;
        self.close(&gated, cols, shares(cols), down_layer, x).map(Some)
    }

    /// The products of the normalised x.
    fn project(
        &mut self,
        x: &Tensor,
        norm: &Norm<'_, Buffer>,
        joint: &Joint<'_>,
    ) -> Result<Tensor> {
        let y = self.pool.tensor(1, joint.cols)?;
        let norm = Some((norm.weight, norm.eps));
        let extras = Extras { norm, down: &joint.down, ..Extras::default() };
        matvec(&mut self.recorder, x, &joint.weight, extras, &y)?;
        Ok(y)
    }

    /// The half's last layer, with its update of `parts` shares that begin at column `at` of `x`.
    fn close(
        &mut self,
        x: &Tensor,
        at: usize,
        parts: usize,
        layer: &Layer<'_>,
        residual: &Tensor,
    ) -> Result<Tensor> {
        let y = self.pool.tensor(1, layer.layer.weight.rows())?;
        let extras = Extras {
            bias: layer.layer.bias.as_ref(),
            residual: Some(residual),
            up: layer.update.map(|lora| {
                let (b, rank, scale) = (lora.b.param(), lora.rank, lora.scale);
                Up { b, rank, scale, at, parts }
            }),
            ..Extras::default()
        };
        matvec(&mut self.recorder, x, &layer.layer.weight, extras, &y)?;
        Ok(y)
    }
}
