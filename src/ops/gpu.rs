//! [`Ops`] recorded as GPU dispatches.

use std::rc::Rc;

use super::{Adapted, Linear, Lora, Norm, Ops};
use crate::gpu::{Buffer, Context, Recorder, Recording};
use crate::kernels::attention::{AttentionShape, attention};
use crate::kernels::dora::{dora_lengths, dora_scale};
use crate::kernels::fuse::Update;
use crate::kernels::kv::KvType;
use crate::kernels::lora::{Param, lora_down, lora_up_add};
use crate::kernels::lora_embedding::{self, lora_embedding};
use crate::kernels::weight::Matrix;
use crate::kernels::{Rows, Tensor, append, embedding, matmul, rms_norm, rope, silu_mul};
use crate::{Error, Result};

/// A trainable array: a place in a buffer that holds all of an adapter's.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The buffer, f32.
    pub buffer: Buffer,
    /// The first of its values in the buffer.
    pub offset: usize,
}

impl Parameter {
    pub(super) fn param(&self) -> Param<'_> {
        Param { buffer: &self.buffer, offset: self.offset as u32 }
    }
}

/// The update that the kernels compute.
pub type GpuLora = Lora<Parameter>;

impl GpuLora {
    /// What the kernels that read the whole update take.
    ///
    /// # Errors
    /// Arrays in different buffers.
    pub fn whole(&self) -> Result<Update<'_>> {
        let arrays = [Some(&self.b), self.magnitude.as_ref()];
        if arrays.iter().flatten().any(|array| *array.buffer != *self.a.buffer) {
            return Err(Error::invalid("the arrays of an update are in different buffers"));
        }
        let magnitude = self.magnitude.as_ref().map(|magnitude| magnitude.offset as u32);
        let (rank, scale) = (self.rank, self.scale);
        Ok(Update { a: self.a.param(), b: self.b.offset as u32, magnitude, rank, scale })
    }
}

/// What was between an adapted layer's input and its output.
#[derive(Debug, Clone)]
pub struct Kept {
    /// `x A`, (T, rank).
    pub down: Tensor,
    /// DoRA's.
    pub dora: Option<KeptDora>,
}

/// What a DoRA scales, and by what.
#[derive(Debug, Clone)]
pub struct KeptDora {
    /// `x Wᵀ + scale · (x A) B`, (T, out).
    pub product: Tensor,
    /// The lengths of the updated weight's rows, (1, out).
    pub lengths: Tensor,
}

/// Memory for activations, lent and taken back while a recording is made.
///
/// Dispatches run in the order they were recorded, so memory that no tensor holds any more can
/// serve the next one: Rust's ownership plans the memory.
#[derive(Debug)]
pub struct Pool {
    context: Context,
    buffers: Vec<Rc<Buffer>>,
}

impl Pool {
    /// An empty pool.
    pub fn new(context: &Context) -> Self {
        Self { context: context.clone(), buffers: Vec::new() }
    }

    /// A tensor with room for `capacity` tokens, its contents whatever was there before.
    pub fn tensor(&mut self, capacity: usize, cols: usize) -> Result<Tensor> {
        let rows = Rows { begin: 0, max: capacity as u32 };
        let bytes = (capacity * cols * 4).next_multiple_of(16) as u64;
        // The smallest free buffer that is large enough, if it is not far too large.
        let free = self
            .buffers
            .iter()
            .filter(|b| Rc::strong_count(b) == 1 && (bytes..=2 * bytes).contains(&b.size()))
            .min_by_key(|b| b.size());
        if let Some(free) = free {
            return Ok(Tensor::in_buffer(free.clone(), rows, cols));
        }
        let buffer = Rc::new(self.context.storage("activation", bytes)?);
        self.buffers.push(buffer.clone());
        Ok(Tensor::in_buffer(buffer, rows, cols))
    }
}

/// Keys and values of the tokens so far, for every block: (capacity, kv_heads · head_dim) each.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<(Buffer, Buffer)>,
    capacity: usize,
    kv: KvType,
    /// Features of a row.
    cols: usize,
}

impl KvCache {
    /// A cache for `capacity` tokens.
    pub fn new(
        context: &Context,
        blocks: usize,
        capacity: usize,
        shape: AttentionShape,
        kv: KvType,
    ) -> Result<Self> {
        let cols = shape.kv_heads * shape.head_dim;
        let mut cache = Self { layers: Vec::new(), capacity, kv, cols };
        for _ in 0..blocks {
            let layer = cache.layer(context, capacity)?;
            cache.layers.push(layer);
        }
        Ok(cache)
    }

    fn layer(&self, context: &Context, capacity: usize) -> Result<(Buffer, Buffer)> {
        let bytes = (capacity * self.cols * self.kv.bytes()) as u64;
        Ok((context.storage("keys", bytes)?, context.storage("values", bytes)?))
    }

    /// Tokens it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `capacity` tokens, no fewer than now, and keeps what it holds. Block by block,
    /// so that if nobody else holds it, there are never two caches.
    ///
    /// # Errors
    /// Too little memory; it has the room then that it had.
    pub fn grow(&mut self, context: &Context, capacity: usize) -> Result<()> {
        for i in 0..self.layers.len() {
            let grown = self.layer(context, capacity)?;
            let (k, v) = &self.layers[i];
            let mut encoder = context.device().create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(k, 0, &grown.0, 0, Some(k.size()));
            encoder.copy_buffer_to_buffer(v, 0, &grown.1, 0, Some(v.size()));
            context.submit(encoder);
            self.layers[i] = grown;
        }
        self.capacity = capacity;
        Ok(())
    }
}

/// Records a model's operations for replays of at most `capacity` tokens.
#[derive(Debug)]
pub struct GpuOps {
    pub(super) recorder: Recorder,
    pub(super) pool: Pool,
    pub(super) tokens: Buffer,
    pub(super) rope_table: Buffer,
    pub(super) capacity: usize,
    cache: Option<KvCache>,
}

impl GpuOps {
    /// An empty recording.
    ///
    /// `step` is a uniform [`Step`](crate::gpu::Step), `tokens` holds a
    /// [`Token`](crate::kernels::Token) for each of up to `capacity` tokens, `rope_table` is
    /// [`rope_table`](crate::model::rope_table)'s for every position they may have.
    pub fn new(
        context: &Context,
        step: &Buffer,
        tokens: &Buffer,
        rope_table: &Buffer,
        capacity: usize,
        cache: Option<&KvCache>,
    ) -> Self {
        Self {
            recorder: Recorder::new(context, step),
            pool: Pool::new(context),
            tokens: tokens.clone(),
            rope_table: rope_table.clone(),
            capacity,
            cache: cache.cloned(),
        }
    }

    /// Records kernels directly.
    pub fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// A tensor with room for every token of a replay.
    pub fn tensor(&mut self, cols: usize) -> Result<Tensor> {
        self.pool.tensor(self.capacity, cols)
    }

    /// A tensor of its own number of rows.
    pub fn rows(&mut self, rows: usize, cols: usize) -> Result<Tensor> {
        self.pool.tensor(rows, cols)
    }

    /// What was recorded.
    pub fn finish(self) -> Recording {
        self.recorder.finish()
    }

    /// Keys and values of a block, if there is a cache.
    pub(super) fn cache_of(&self, layer: usize) -> Result<Option<(Buffer, Buffer, KvType)>> {
        let Some(cache) = &self.cache else { return Ok(None) };
        let found = cache.layers.get(layer).map(|(k, v)| (k.clone(), v.clone(), cache.kv));
        found.map(Some).ok_or_else(|| Error::invalid(format!("the cache has no block {layer}")))
    }

    /// [`Ops::linear`] into a tensor of the caller's; returns what was between if there is an update.
    pub fn linear_into(
        &mut self,
        x: &Tensor,
        layer: &Linear<Matrix, Buffer>,
        lora: Option<&GpuLora>,
        residual: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<Option<Kept>> {
        if let Some(lora) = lora {
            return self.adapted_into(x, x, layer, lora, residual, y).map(Some);
        }
        let r = &mut self.recorder;
        matmul::matmul(r, x, &layer.weight, layer.bias.as_ref(), residual, y)?;
        Ok(None)
    }

    /// The same with an update that gets `input` in the place of `x`.
    pub(super) fn adapted_into(
        &mut self,
        x: &Tensor,
        input: &Tensor,
        layer: &Linear<Matrix, Buffer>,
        lora: &GpuLora,
        residual: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<Kept> {
        let down = self.pool.tensor(x.capacity(), lora.rank)?;
        let Some(magnitude) = &lora.magnitude else {
            let r = &mut self.recorder;
            matmul::matmul(r, x, &layer.weight, layer.bias.as_ref(), residual, y)?;
            lora_down(r, input, lora.a.param(), lora.rank, &down)?;
            lora_up_add(r, &down, lora.b.param(), lora.scale, y)?;
            return Ok(Kept { down, dora: None });
        };
        let product = self.pool.tensor(x.capacity(), y.cols())?;
        let lengths = self.pool.tensor(1, y.cols())?;
        let r = &mut self.recorder;
        matmul::matmul(r, x, &layer.weight, None, None, &product)?;
        lora_down(r, input, lora.a.param(), lora.rank, &down)?;
        lora_up_add(r, &down, lora.b.param(), lora.scale, &product)?;
        dora_lengths(r, &layer.weight, &lora.whole()?, lengths.buffer())?;
        let to = (magnitude.param(), lengths.buffer());
        dora_scale(r, &product, to, layer.bias.as_ref(), residual, y)?;
        Ok(Kept { down, dora: Some(KeptDora { product, lengths }) })
    }
}

impl Ops for GpuOps {
    type Matrix = Matrix;
    type Vector = Buffer;
    type Update = GpuLora;
    type Tensor = Tensor;

    fn embedding(&mut self, table: &Matrix, lora: Option<&GpuLora>) -> Result<Tensor> {
        let y = self.tensor(table.cols())?;
        let (r, tokens) = (&mut self.recorder, &self.tokens);
        embedding::embedding(r, table, tokens, &y)?;
        if let Some(lora) = lora {
            let (a, b, vocab) = (lora.a.param(), lora.b.param(), table.rows());
            let update = lora_embedding::Update { a, b, vocab, rank: lora.rank, scale: lora.scale };
            lora_embedding(r, update, tokens, &y)?;
        }
        Ok(y)
    }

    fn rms_norm(&mut self, x: &Tensor, weight: &Buffer, eps: f32) -> Result<Tensor> {
        let y = self.pool.tensor(x.capacity(), x.cols())?;
        rms_norm::rms_norm(&mut self.recorder, x, weight, eps, &y)?;
        Ok(y)
    }

    fn linear(
        &mut self,
        x: &Tensor,
        layer: &Linear<Matrix, Buffer>,
        lora: Option<&GpuLora>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let y = self.pool.tensor(x.capacity(), layer.weight.rows())?;
        self.linear_into(x, layer, lora, residual, &y)?;
        Ok(y)
    }

    fn rope(&mut self, x: Tensor, head_dim: usize) -> Result<Tensor> {
        rope::rope(&mut self.recorder, &x, &self.tokens, &self.rope_table, head_dim, false)?;
        Ok(x)
    }

    fn attention(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: AttentionShape,
    ) -> Result<Tensor> {
        let out = self.pool.tensor(q.capacity(), q.cols())?;
        let cache = self.cache_of(layer)?;
        let r = &mut self.recorder;
        let Some((keys, values, kv)) = cache else {
            let own = (k.buffer(), v.buffer(), KvType::F32);
            attention(r, q, own, &self.tokens, shape, &out, None)?;
            return Ok(out);
        };
        append::append(r, k, &self.tokens, &keys, kv)?;
        append::append(r, v, &self.tokens, &values, kv)?;
        attention(r, q, (&keys, &values, kv), &self.tokens, shape, &out, None)?;
        Ok(out)
    }

    fn silu_mul(&mut self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let y = self.pool.tensor(gate.capacity(), gate.cols())?;
        silu_mul::silu_mul(&mut self.recorder, gate, up, &y)?;
        Ok(y)
    }

    fn self_attention(
        &mut self,
        layer: usize,
        x: &Tensor,
        norm: &Norm<'_, Buffer>,
        layers: &[Adapted<'_, Matrix, Buffer, GpuLora>; 4],
        shape: AttentionShape,
    ) -> Result<Tensor> {
        match self.attention_of_one(layer, x, norm, layers, shape)? {
            Some(y) => Ok(y),
            None => super::self_attention(self, layer, x, norm, layers, shape),
        }
    }

    fn mlp(
        &mut self,
        x: &Tensor,
        norm: &Norm<'_, Buffer>,
        layers: &[Adapted<'_, Matrix, Buffer, GpuLora>; 3],
    ) -> Result<Tensor> {
        match self.mlp_of_one(x, norm, layers)? {
            Some(y) => Ok(y),
            None => super::mlp(self, x, norm, layers),
        }
    }
}
