//! [`Ops`] recorded on the GPU together with what their backward needs.
//!
//! The tape remembers one entry per coarse operation and writes the backward dispatches behind the
//! forward ones. Gradients flow towards an adapter's parameters and the weights that are trained
//! themselves, if any; an operation with neither at or below it leaves no entry, so that nothing below
//! the first trained block costs a backward dispatch.

use std::collections::HashMap;

use super::gpu::{GpuLora, GpuOps, Kept, KeptDora, Parameter};
use super::{Adapted, Linear, Norm, Ops};
use crate::gpu::{Buffer, Recording};
use crate::kernels::add::add;
use crate::kernels::attention::{AttentionShape, attention};
use crate::kernels::attention_backward::attention_backward;
use crate::kernels::dora::dora_scale;
use crate::kernels::dropout::{Dropout, dropout};
use crate::kernels::embedding_gradient::embedding_gradient;
use crate::kernels::kv::KvType;
use crate::kernels::lora::{
    Param, lora_backward_a, lora_backward_b, lora_backward_x, lora_up_backward,
};
use crate::kernels::matmul_transposed::matmul_transposed;
use crate::kernels::rms_norm_backward::rms_norm_backward;
use crate::kernels::rope::rope;
use crate::kernels::silu_mul::silu_mul_backward;
use crate::kernels::vector_gradient::{bias_gradient, norm_gradient, product_gradient};
use crate::kernels::weight::Matrix;
use crate::kernels::weight_gradient::weight_gradient;
use crate::kernels::{Tensor, embedding, rms_norm, silu_mul};
use crate::{Error, Result};

/// A tensor on the tape.
#[derive(Debug, Clone)]
pub struct Tracked {
    tensor: Tensor,
    /// Names its gradient; `None` if nothing below it is trained.
    id: Option<usize>,
}

impl Tracked {
    /// Its values.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

/// Where the gradients of weights that are trained themselves are added up.
#[derive(Debug, Clone, Default)]
pub struct WeightGradients {
    matrices: Vec<(Matrix, Matrix)>,
    vectors: Vec<(Buffer, Buffer)>,
}

impl WeightGradients {
    /// The gradient of `weight` (out, in) is added to `gradient`, as large and in f32.
    pub fn add_matrix(&mut self, weight: &Matrix, gradient: &Matrix) {
        self.matrices.push((weight.clone(), gradient.clone()));
    }

    /// The gradient of a bias or a norm's weight is added to `gradient`, as large and in f32.
    pub fn add_vector(&mut self, weight: &Buffer, gradient: &Buffer) {
        self.vectors.push((weight.clone(), gradient.clone()));
    }

    /// Where that of `weight` goes, if it is trained.
    pub fn matrix(&self, weight: &Matrix) -> Option<&Matrix> {
        self.matrices.iter().find(|(found, _)| found.is(weight)).map(|(_, gradient)| gradient)
    }

    fn vector(&self, weight: &Buffer) -> Option<&Buffer> {
        self.vectors.iter().find(|(found, _)| **found == **weight).map(|(_, gradient)| gradient)
    }

    fn has_layer(&self, layer: &Linear<Matrix, Buffer>) -> bool {
        self.matrix(&layer.weight).is_some()
            || layer.bias.as_ref().is_some_and(|bias| self.vector(bias).is_some())
    }
}

/// What the backward of one operation needs. A missing id needs no gradient.
enum Entry {
    Embedding {
        table: Matrix,
        y: usize,
    },
    RmsNorm {
        x: Tracked,
        weight: Buffer,
        eps: f32,
        y: usize,
    },
    Linear {
        x: Tracked,
        layer: Linear<Matrix, Buffer>,
        lora: Option<(GpuLora, Kept)>,
        y: usize,
    },
    Residual {
        x: Tracked,
        y: usize,
    },
    Rope {
        x: usize,
        head_dim: usize,
        y: usize,
    },
    Attention {
        q: Tracked,
        k: Tracked,
        v: Tracked,
        out: Tracked,
        lse: Tensor,
        shape: AttentionShape,
    },
    SiluMul {
        gate: Tracked,
        up: Tracked,
        y: usize,
    },
    /// Layers of a normalised input that was not kept: it is computed again.
    Normed(Box<Normed>),
    /// An MLP whose inner tensors were not kept: they are computed again.
    Mlp(Box<Mlp>, usize),
}

struct Normed {
    x: Tracked,
    norm: (Buffer, f32),
    layers: [Product; 3],
}

struct Product {
    layer: Linear<Matrix, Buffer>,
    lora: Option<GpuLora>,
    kept: Option<Kept>,
    y: usize,
}

struct Mlp {
    x: Tracked,
    norm: (Buffer, f32),
    /// Gate, up and down.
    layers: [(Linear<Matrix, Buffer>, Option<GpuLora>); 3],
    /// Of the last layer.
    kept: Option<Kept>,
}

/// Records forward operations, then their backward.
///
/// Of an MLP it keeps the input alone, and of a norm nothing, unless [`Self::keep_all`] says otherwise:
/// that is three quarters of a block's activations, and takes half of its arithmetic to compute again.
pub struct Tape {
    ops: GpuOps,
    keeps_all: bool,
    /// The probability of what an update gets of a layer's input to be 0.
    dropout: f32,
    /// What is recorded now leaves no entries.
    paused: bool,
    /// The gradients of the adapter's parameters, laid out as the parameters are.
    parameter_gradients: Buffer,
    weight_gradients: WeightGradients,
    entries: Vec<Entry>,
    gradients: HashMap<usize, Tensor>,
    ids: usize,
}

impl Tape {
    /// A tape over `ops`, which has no cache, that adds the parameters' gradients to
    /// `parameter_gradients`.
    pub fn new(ops: GpuOps, parameter_gradients: &Buffer) -> Self {
        Self {
            ops,
            keeps_all: false,
            dropout: 0.0,
            paused: false,
            parameter_gradients: parameter_gradients.clone(),
            weight_gradients: WeightGradients::default(),
            entries: Vec::new(),
            gradients: HashMap::new(),
            ids: 0,
        }
    }

    /// Drops what updates get of their layers' inputs with the probability `p`, below 1.
    pub fn dropping(self, p: f32) -> Self {
        Self { dropout: p, ..self }
    }

    /// Keeps what is between the layers of an MLP too.
    pub fn keep_all(self) -> Self {
        Self { keeps_all: true, ..self }
    }

    /// Adds up the gradients of these weights too.
    pub fn training(self, weight_gradients: WeightGradients) -> Self {
        Self { weight_gradients, ..self }
    }

    /// The recorder below, for operations that need no backward of their own.
    pub fn ops(&mut self) -> &mut GpuOps {
        &mut self.ops
    }

    /// Both recordings, forward and backward, as one.
    pub fn finish(self) -> Recording {
        self.ops.finish()
    }

    /// The same tensor, cut off from what it was computed from. Its gradient is still wanted if it
    /// was before.
    pub fn leaf(&mut self, x: &Tracked) -> Tracked {
        Tracked { tensor: x.tensor.clone(), id: self.track(x.id.is_some()) }
    }

    /// Forgets how everything so far was computed, which frees what its backward would need.
    pub fn forget(&mut self) {
        self.entries.clear();
    }

    /// Records the backward of everything on the tape, from `y` with gradient `dy` down, and
    /// returns the gradient of `x`, if it has one. Parameters' gradients are added to.
    pub fn backward(&mut self, y: &Tracked, dy: Tensor, x: &Tracked) -> Result<Option<Tensor>> {
        if let Some(id) = y.id {
            self.gradients.insert(id, dy);
        }
        while let Some(entry) = self.entries.pop() {
            self.backward_entry(entry)?;
        }
        let dx = x.id.and_then(|id| self.gradients.remove(&id));
        self.gradients.clear();
        Ok(dx)
    }

    fn backward_entry(&mut self, entry: Entry) -> Result<()> {
        match entry {
            Entry::Embedding { table, y } => {
                let Some(dy) = self.gradients.remove(&y) else { return Ok(()) };
                let Some(gradient) = self.weight_gradients.matrix(&table) else { return Ok(()) };
                embedding_gradient(&mut self.ops.recorder, &self.ops.tokens, &dy, gradient)
            }
            Entry::RmsNorm { x, weight, eps, y } => {
                let Some(dy) = self.gradients.remove(&y) else { return Ok(()) };
                if let Some(gradient) = self.weight_gradients.vector(&weight) {
                    let scales = self.ops.tensor(1)?;
                    let r = &mut self.ops.recorder;
                    norm_gradient(r, &x.tensor, eps, &dy, &scales, gradient)?;
                }
                let Some((dx, accumulate)) = self.gradient(&x)? else { return Ok(()) };
                let r = &mut self.ops.recorder;
                rms_norm_backward(r, &x.tensor, &weight, eps, &dy, &dx, accumulate)
            }
            Entry::Linear { x, layer, lora, y } => {
                let Some(dy) = self.gradients.remove(&y) else { return Ok(()) };
                self.backward_linear(&x, &layer, lora.as_ref(), &dy)
            }
            Entry::Residual { x, y } => {
                // The sum's gradient is its summand's. The linear layer's entry comes after this
                // one on the way down and only reads it, so the memory is shared until then.
                let Some(dy) = self.gradients.get(&y).cloned() else { return Ok(()) };
                let Some(id) = x.id else { return Ok(()) };
                let gradient = match self.gradients.remove(&id) {
                    None => dy,
                    Some(other) => {
                        let sum = self.ops.tensor(dy.cols())?;
                        add(&mut self.ops.recorder, &other, &dy, &sum)?;
                        sum
                    }
                };
                self.gradients.insert(id, gradient);
                Ok(())
            }
            Entry::Rope { x, head_dim, y } => {
                let Some(dy) = self.gradients.remove(&y) else { return Ok(()) };
                let (tokens, table) = (&self.ops.tokens, &self.ops.rope_table);
                rope(&mut self.ops.recorder, &dy, tokens, table, head_dim, true)?;
                self.gradients.insert(x, dy);
                Ok(())
            }
            Entry::Attention { q, k, v, out, lse, shape } => {
                let Some(d_out) = out.id.and_then(|id| self.gradients.remove(&id)) else {
                    return Ok(());
                };
                let dq = self.ops.tensor(q.tensor.cols())?;
                let dk = self.ops.tensor(k.tensor.cols())?;
                let dv = self.ops.tensor(v.tensor.cols())?;
                let statistics = self.ops.tensor(2 * shape.heads)?;
                let tokens = &self.ops.tokens;
                attention_backward(
                    &mut self.ops.recorder,
                    [&q.tensor, &k.tensor, &v.tensor],
                    (&out.tensor, &lse, &d_out),
                    tokens,
                    shape,
                    &statistics,
                    [&dq, &dk, &dv],
                )?;
                for (tracked, gradient) in [(q, dq), (k, dk), (v, dv)] {
                    if let Some(id) = tracked.id {
                        self.gradients.insert(id, gradient);
                    }
                }
                Ok(())
            }
            Entry::SiluMul { gate, up, y } => {
                let Some(dy) = self.gradients.remove(&y) else { return Ok(()) };
                let d_gate = self.ops.tensor(gate.tensor.cols())?;
                let d_up = self.ops.tensor(up.tensor.cols())?;
                let r = &mut self.ops.recorder;
                silu_mul_backward(r, &gate.tensor, &up.tensor, &dy, &d_gate, &d_up)?;
                for (tracked, gradient) in [(gate, d_gate), (up, d_up)] {
                    if let Some(id) = tracked.id {
                        self.gradients.insert(id, gradient);
                    }
                }
                Ok(())
            }
            Entry::Normed(normed) => {
                let Normed { x, norm: (weight, eps), layers } = *normed;
                if layers.iter().all(|product| !self.gradients.contains_key(&product.y)) {
                    return Ok(());
                }
                let normed = self.rms_norm(&x, &weight, eps)?;
                for Product { layer, lora, kept, y } in layers {
                    self.note_linear(&normed, &layer, lora.as_ref(), kept, None, y);
                }
                Ok(())
            }
            Entry::Mlp(mlp, y) => {
                let Mlp { x, norm: (weight, eps), layers, kept } = *mlp;
                let norm = Norm { weight: &weight, eps };
                let [gate, up, last] =
                    layers.each_ref().map(|(layer, lora)| Adapted { layer, update: lora.as_ref() });
                let gated = super::gated(self, &x, &norm, [&gate, &up])?;
                self.note_linear(&gated, last.layer, last.update, kept, Some(&x), y);
                Ok(())
            }
        }
    }

    /// Whether an update of the layer or the layer itself is trained.
    fn is_trained(&self, adapted: &Adapted<'_, Matrix, Buffer, GpuLora>) -> bool {
        adapted.update.is_some() || self.weight_gradients.has_layer(adapted.layer)
    }

    /// [`GpuOps::linear_into`], with an update that gets its input through dropout.
    fn linear_into(
        &mut self,
        x: &Tensor,
        layer: &Linear<Matrix, Buffer>,
        lora: Option<&GpuLora>,
        residual: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<Option<Kept>> {
        let Some(lora) = lora.filter(|_| self.dropout > 0.0) else {
            return self.ops.linear_into(x, layer, lora, residual, y);
        };
        let dropped = self.dropped(x, lora)?;
        self.ops.adapted_into(x, &dropped, layer, lora, residual, y).map(Some)
    }

    /// What an update gets of the input of its layer, the same in a backward as before it.
    fn dropped(&mut self, x: &Tensor, lora: &GpuLora) -> Result<Tensor> {
        let dropped = self.ops.tensor(x.cols())?;
        let kept = self.dropout_of(lora);
        dropout(&mut self.ops.recorder, x, kept, &dropped, false)?;
        Ok(dropped)
    }

    fn dropout_of(&self, lora: &GpuLora) -> Dropout {
        // No two updates begin at one place.
        Dropout { p: self.dropout, salt: lora.a.offset as u32 }
    }

    /// The product of the normalised x with a layer, and what [`Entry::Normed`] keeps of it; `below`
    /// says whether the normalised x has a gradient.
    fn product_of(
        &mut self,
        normed: &Tensor,
        adapted: &Adapted<'_, Matrix, Buffer, GpuLora>,
        below: bool,
    ) -> Result<(Tracked, Product)> {
        let Adapted { layer, update } = adapted;
        let tensor = self.ops.tensor(layer.weight.rows())?;
        let kept = self.linear_into(normed, layer, *update, None, &tensor)?;
        let id = self.track(below || self.is_trained(adapted));
        let (layer, lora, y) = ((*layer).clone(), update.cloned(), self.ids);
        Ok((Tracked { tensor, id }, Product { layer, lora, kept, y }))
    }

    /// Leaves the entries of `y = x Wᵀ + …`.
    fn note_linear(
        &mut self,
        x: &Tracked,
        layer: &Linear<Matrix, Buffer>,
        lora: Option<&GpuLora>,
        kept: Option<Kept>,
        residual: Option<&Tracked>,
        y: usize,
    ) {
        if x.id.is_some() || lora.is_some() || self.weight_gradients.has_layer(layer) {
            let (x, layer) = (x.clone(), layer.clone());
            self.entries.push(Entry::Linear { x, layer, lora: lora.cloned().zip(kept), y });
        }
        if let Some(residual) = residual {
            self.entries.push(Entry::Residual { x: residual.clone(), y });
        }
    }

    /// With `Y = X Wᵀ + s (X A) B`: `dH = s dY Bᵀ`, `dA = Xᵀ dH`, `dB = s (X A)ᵀ dY` and
    /// `dX = dY W + dH Aᵀ`. `dW = dYᵀ X` is formed where it is trained, and nowhere else. For DoRA all
    /// this is of the product that it scales (`kernels/dora.rs`).
    fn backward_linear(
        &mut self,
        x: &Tracked,
        layer: &Linear<Matrix, Buffer>,
        lora: Option<&(GpuLora, Kept)>,
        dy: &Tensor,
    ) -> Result<()> {
        let bias = layer.bias.as_ref().and_then(|bias| self.weight_gradients.vector(bias));
        if let Some(gradient) = bias {
            bias_gradient(&mut self.ops.recorder, dy, gradient)?;
        }
        let of_product = self.backward_dora(lora, dy)?;
        let dy = of_product.as_ref().unwrap_or(dy);
        let dx = self.gradient(x)?;
        let r = &mut self.ops.recorder;
        if let Some((dx, accumulate)) = &dx {
            matmul_transposed(r, dy, &layer.weight, dx, *accumulate)?;
        }
        if let Some(gradient) = self.weight_gradients.matrix(&layer.weight) {
            weight_gradient(r, &x.tensor, dy, gradient)?;
        }
        let Some((lora, kept)) = lora else { return Ok(()) };
        let d_down = self.ops.tensor(lora.rank)?;
        let gradients = self.parameter_gradients.clone();
        let at = |p: &Parameter| place(&gradients, p);
        let r = &mut self.ops.recorder;
        lora_up_backward(r, dy, lora.b.param(), lora.scale, &d_down)?;
        lora_backward_b(r, &kept.down, dy, lora.scale, at(&lora.b))?;
        if self.dropout > 0.0 {
            let dropped = self.dropped(&x.tensor, lora)?;
            lora_backward_a(&mut self.ops.recorder, &dropped, &d_down, at(&lora.a))?;
            let Some((dx, _)) = &dx else { return Ok(()) };
            let (kept, r) = (self.dropout_of(lora), &mut self.ops.recorder);
            // In the place of the input, which nobody needs any more.
            lora_backward_x(r, &d_down, lora.a.param(), &dropped, false)?;
            return dropout(r, &dropped, kept, dx, true);
        }
        let r = &mut self.ops.recorder;
        lora_backward_a(r, &x.tensor, &d_down, at(&lora.a))?;
        if let Some((dx, _)) = &dx {
            lora_backward_x(r, &d_down, lora.a.param(), dx, true)?;
        }
        Ok(())
    }

    /// From the gradient of what a DoRA makes of its product to that of the product; `None` if it is no
    /// DoRA. On the way the magnitude's is added up.
    fn backward_dora(
        &mut self,
        lora: Option<&(GpuLora, Kept)>,
        dy: &Tensor,
    ) -> Result<Option<Tensor>> {
        let Some((GpuLora { magnitude: Some(magnitude), .. }, kept)) = lora else {
            return Ok(None);
        };
        let Some(KeptDora { product, lengths }) = &kept.dora else { return Ok(None) };
        let d_product = self.ops.tensor(dy.cols())?;
        let (r, lengths) = (&mut self.ops.recorder, lengths.buffer());
        let gradient = place(&self.parameter_gradients, magnitude);
        product_gradient(r, dy, product, lengths, gradient)?;
        dora_scale(r, dy, (magnitude.param(), lengths), None, None, &d_product)?;
        Ok(Some(d_product))
    }

    /// Where the gradient of `x` goes, and whether to add to it; `None` if nobody wants it.
    fn gradient(&mut self, x: &Tracked) -> Result<Option<(Tensor, bool)>> {
        let Some(id) = x.id else { return Ok(None) };
        if let Some(found) = self.gradients.get(&id) {
            return Ok(Some((found.clone(), true)));
        }
        let fresh = self.ops.tensor(x.tensor.cols())?;
        self.gradients.insert(id, fresh.clone());
        Ok(Some((fresh, false)))
    }

    /// The name of a new tensor's gradient, if it has one.
    fn track(&mut self, trained: bool) -> Option<usize> {
        self.ids += 1;
        (trained && !self.paused).then_some(self.ids)
    }
}

/// Where the gradient of a parameter is added up.
fn place<'a>(gradients: &'a Buffer, parameter: &Parameter) -> Param<'a> {
    Param { buffer: gradients, offset: parameter.offset as u32 }
}

impl Ops for Tape {
    type Matrix = Matrix;
    type Vector = Buffer;
    type Update = GpuLora;
    type Tensor = Tracked;

    fn embedding(&mut self, table: &Matrix, lora: Option<&GpuLora>) -> Result<Tracked> {
        if lora.is_some() {
            return Err(Error::invalid("a tape has no gradient of an embedding's update"));
        }
        let y = self.ops.tensor(table.cols())?;
        embedding::embedding(&mut self.ops.recorder, table, &self.ops.tokens, &y)?;
        let id = self.track(self.weight_gradients.matrix(table).is_some());
        if let Some(y) = id {
            self.entries.push(Entry::Embedding { table: table.clone(), y });
        }
        Ok(Tracked { tensor: y, id })
    }

    fn rms_norm(&mut self, x: &Tracked, weight: &Buffer, eps: f32) -> Result<Tracked> {
        let y = self.ops.tensor(x.tensor.cols())?;
        rms_norm::rms_norm(&mut self.ops.recorder, &x.tensor, weight, eps, &y)?;
        let id = self.track(x.id.is_some() || self.weight_gradients.vector(weight).is_some());
        if let Some(y) = id {
            self.entries.push(Entry::RmsNorm { x: x.clone(), weight: weight.clone(), eps, y });
        }
        Ok(Tracked { tensor: y, id })
    }

    fn linear(
        &mut self,
        x: &Tracked,
        layer: &Linear<Matrix, Buffer>,
        lora: Option<&GpuLora>,
        residual: Option<&Tracked>,
    ) -> Result<Tracked> {
        let y = self.ops.tensor(layer.weight.rows())?;
        let kept = self.linear_into(&x.tensor, layer, lora, residual.map(|r| &r.tensor), &y)?;
        let trained = self.is_trained(&Adapted { layer, update: lora });
        let below = x.id.is_some() || residual.is_some_and(|r| r.id.is_some());
        let id = self.track(trained || below);
        if let Some(id) = id {
            self.note_linear(x, layer, lora, kept, residual, id);
        }
        Ok(Tracked { tensor: y, id })
    }

    fn rope(&mut self, x: Tracked, head_dim: usize) -> Result<Tracked> {
        let tensor = self.ops.rope(x.tensor, head_dim)?;
        let id = self.track(x.id.is_some());
        if let (Some(x), Some(y)) = (x.id, id) {
            self.entries.push(Entry::Rope { x, head_dim, y });
        }
        Ok(Tracked { tensor, id })
    }

    fn attention(
        &mut self,
        _layer: usize,
        q: &Tracked,
        k: &Tracked,
        v: &Tracked,
        shape: AttentionShape,
    ) -> Result<Tracked> {
        let out = self.ops.tensor(q.tensor.cols())?;
        let lse = self.ops.tensor(shape.heads)?;
        attention(
            &mut self.ops.recorder,
            &q.tensor,
            (k.tensor.buffer(), v.tensor.buffer(), KvType::F32),
            &self.ops.tokens,
            shape,
            &out,
            Some(&lse),
        )?;
        let id = self.track([q, k, v].iter().any(|x| x.id.is_some()));
        let out = Tracked { tensor: out, id };
        if id.is_some() {
            let (q, k, v) = (q.clone(), k.clone(), v.clone());
            self.entries.push(Entry::Attention { q, k, v, out: out.clone(), lse, shape });
        }
        Ok(out)
    }

    fn silu_mul(&mut self, gate: &Tracked, up: &Tracked) -> Result<Tracked> {
        let y = self.ops.tensor(gate.tensor.cols())?;
        silu_mul::silu_mul(&mut self.ops.recorder, &gate.tensor, &up.tensor, &y)?;
        let id = self.track(gate.id.is_some() || up.id.is_some());
        if let Some(y) = id {
            self.entries.push(Entry::SiluMul { gate: gate.clone(), up: up.clone(), y });
        }
        Ok(Tracked { tensor: y, id })
    }

    fn self_attention(
        &mut self,
        layer: usize,
        x: &Tracked,
        norm: &Norm<'_, Buffer>,
        layers: &[Adapted<'_, Matrix, Buffer, GpuLora>; 4],
        shape: AttentionShape,
    ) -> Result<Tracked> {
        let [inner @ .., o] = layers;
        let below = x.id.is_some() || self.weight_gradients.vector(norm.weight).is_some();
        let trained = below || inner.iter().any(|layer| self.is_trained(layer));
        if self.keeps_all || !trained {
            return super::self_attention(self, layer, x, norm, layers, shape);
        }
        self.paused = true;
        let normed = self.rms_norm(x, norm.weight, norm.eps);
        self.paused = false;
        let normed = normed?.tensor;
        let [q, k, v] = inner;
        let (q, kept_q) = self.product_of(&normed, q, below)?;
        let (k, kept_k) = self.product_of(&normed, k, below)?;
        let (v, kept_v) = self.product_of(&normed, v, below)?;
        drop(normed);
        let layers = [kept_q, kept_k, kept_v];
        let norm = (norm.weight.clone(), norm.eps);
        self.entries.push(Entry::Normed(Box::new(Normed { x: x.clone(), norm, layers })));
        let q = self.rope(q, shape.head_dim)?;
        let k = self.rope(k, shape.head_dim)?;
        let mixed = self.attention(layer, &q, &k, &v, shape)?;
        self.linear(&mixed, o.layer, o.update, Some(x))
    }

    fn mlp(
        &mut self,
        x: &Tracked,
        norm: &Norm<'_, Buffer>,
        layers: &[Adapted<'_, Matrix, Buffer, GpuLora>; 3],
    ) -> Result<Tracked> {
        let [gate, up, down] = layers;
        let below = x.id.is_some() || self.weight_gradients.vector(norm.weight).is_some();
        let trained = below || layers.iter().any(|layer| self.is_trained(layer));
        if self.keeps_all || !trained {
            return super::mlp(self, x, norm, layers);
        }
        self.paused = true;
        let gated = super::gated(self, x, norm, [gate, up]);
        self.paused = false;
        let y = self.ops.tensor(down.layer.weight.rows())?;
        let (gated, residual) = (gated?.tensor, Some(&x.tensor));
        let kept = self.linear_into(&gated, down.layer, down.update, residual, &y)?;
        let id = self.track(true);
        if let Some(id) = id {
            let layers = [gate, up, down].map(|l| (l.layer.clone(), l.update.cloned()));
            let norm = (norm.weight.clone(), norm.eps);
            self.entries.push(Entry::Mlp(Box::new(Mlp { x: x.clone(), norm, layers, kept }), id));
        }
        Ok(Tracked { tensor: y, id })
    }
}
