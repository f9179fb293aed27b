//! [`Forward`](super::Forward) on the GPU: one recording of the blocks, one of the head.

use super::model::GpuModel;
use crate::Result;
use crate::gpu::{Buffer, Context, Recording, Step};
use crate::kernels::{Tensor, Token};
use crate::model::{Adapter, Module, rope_table};
use crate::ops::{GpuLora, GpuOps, Ops};

#[derive(Debug)]
pub(super) struct GpuForward {
    context: Context,
    blocks_step: Buffer,
    head_step: Buffer,
    /// [`Token`] (capacity)
    tokens: Buffer,
    /// (capacity, hidden_size), after the last block.
    hidden: Tensor,
    /// (rows, hidden_size), some rows of `hidden`.
    rows: Tensor,
    /// (rows, vocab_size)
    logits: Tensor,
    blocks: Recording,
    head: Recording,
}

impl GpuForward {
    /// Records a forward pass over up to `capacity` tokens, and the head of up to `rows` of them.
    pub(super) fn new(
        model: &GpuModel,
        adapter: Option<&Adapter<GpuLora>>,
        capacity: usize,
        rows: usize,
    ) -> Result<Self> {
        let GpuModel { context, llama } = model;
        let uniform = || context.uniform("step", size_of::<Step>() as u64);
        let (blocks_step, head_step) = (uniform()?, uniform()?);
        let tokens = context.storage("tokens", (capacity * size_of::<Token>()) as u64)?;
        let table = context.storage_from("rope table", &rope_table(&llama.config, capacity))?;

        let mut ops = GpuOps::new(context, &blocks_step, &tokens, &table, capacity, None);
        let hidden = llama.hidden(&mut ops, adapter)?;
        let blocks = ops.finish();

        let logits = Tensor::new(context, rows, llama.config.vocab_size)?;
        let some = Tensor::new(context, rows, hidden.cols())?;
        let mut ops = GpuOps::new(context, &head_step, &tokens, &table, rows, None);
        let normed = ops.rms_norm(&some, &llama.norm, llama.config.rms_norm_eps)?;
        let update = adapter.and_then(|adapter| adapter.of(Module::Head));
        ops.linear_into(&normed, &llama.head(), update, None, &logits)?;
        let head = ops.finish();

        let context = context.clone();
        Ok(Self {
            context,
            blocks_step,
            head_step,
            tokens,
            hidden,
            rows: some,
            logits,
            blocks,
            head,
        })
    }

    pub(super) fn run(&mut self, tokens: &[Token]) -> Result<()> {
        self.context.write(&self.tokens, 0, bytemuck::cast_slice(tokens));
        replay(&self.context, &self.blocks, &self.blocks_step, tokens.len())
    }

    pub(super) async fn logits(&mut self, first: usize, count: usize) -> Result<Vec<f32>> {
        let row = (self.hidden.cols() * size_of::<f32>()) as u64;
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        let (from, to) = (self.hidden.buffer(), self.rows.buffer());
        encoder.copy_buffer_to_buffer(from, first as u64 * row, to, 0, Some(count as u64 * row));
        self.context.submit(encoder);
        replay(&self.context, &self.head, &self.head_step, count)?;
        self.context.read(self.logits.buffer(), 0, count * self.logits.cols()).await
    }
}

fn replay(context: &Context, recording: &Recording, step: &Buffer, tokens: usize) -> Result<()> {
    let tokens = tokens as u32;
    context.write(step, 0, bytemuck::bytes_of(&Step { tokens, ..Default::default() }));
    recording.submit(tokens, 1)
}
