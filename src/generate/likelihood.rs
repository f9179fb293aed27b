//! How likely a model finds given tokens: one forward pass without a cache.
//!
//! The blocks run over all tokens at once, the LM head over [`HEAD_ROWS`] of them at a time, so that
//! the logits of a long text never stand in memory whole.

use std::rc::Rc;

use crate::gpu::{Buffer, Context, Recording, Step};
use crate::kernels::{Tensor, Token};
use crate::model::{Adapter, GpuLlama, rope_table};
use crate::ops::{GpuLora, GpuOps, Ops};
use crate::{Error, Result};

/// Rows that the LM head does in one replay.
const HEAD_ROWS: usize = 32;

/// A model, with or without an adapter, recorded for sequences of up to [`Self::capacity`] tokens.
#[derive(Debug)]
pub struct Likelihood {
    context: Context,
    vocab_size: usize,
    capacity: usize,
    blocks_step: Buffer,
    head_step: Buffer,
    tokens: Buffer,
    /// (capacity, hidden_size), after the last block.
    hidden: Tensor,
    /// (HEAD_ROWS, hidden_size), some rows of `hidden`.
    rows: Tensor,
    /// (HEAD_ROWS, vocab_size)
    logits: Tensor,
    blocks: Recording,
    head: Recording,
}

impl Likelihood {
    /// Records a forward pass over up to `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`] for more tokens than the model's context; too little memory.
    pub fn new(
        context: &Context,
        model: &GpuLlama,
        adapter: Option<&Rc<Adapter<GpuLora>>>,
        capacity: usize,
    ) -> Result<Self> {
        let limit = model.config.max_position_embeddings;
        if capacity > limit {
            return Err(Error::ContextOverflow { needed: capacity, limit });
        }
        let uniform = || context.uniform("step", size_of::<Step>() as u64);
        let (blocks_step, head_step) = (uniform()?, uniform()?);
        let tokens = context.storage("tokens", (capacity * size_of::<Token>()) as u64)?;
        let table = rope_table(&model.config, capacity);
        let table = context.storage_from("rope table", &table)?;

        let mut ops = GpuOps::new(context, &blocks_step, &tokens, &table, capacity, None);
        let hidden = model.hidden(&mut ops, adapter.map(Rc::as_ref))?;
        let blocks = ops.finish();

        let rows = Tensor::new(context, HEAD_ROWS, hidden.cols())?;
        let logits = Tensor::new(context, HEAD_ROWS, model.config.vocab_size)?;
        let mut ops = GpuOps::new(context, &head_step, &tokens, &table, HEAD_ROWS, None);
        let normed = ops.rms_norm(&rows, &model.norm, model.config.rms_norm_eps)?;
        ops.linear_into(&normed, &model.head(), None, None, &logits)?;
        let head = ops.finish();

        Ok(Self {
            context: context.clone(),
            vocab_size: model.config.vocab_size,
            capacity,
            blocks_step,
            head_step,
            tokens,
            hidden,
            rows,
            logits,
            blocks,
            head,
        })
    }

    /// The longest sequence, the last token, which nothing follows, not counted.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The negative log-likelihood, in nats, of each of `ids[from..]` given all tokens before it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `from` is 0, as nothing comes before the first token, or an id is not
    /// in the vocabulary; [`Error::ContextOverflow`] beyond [`Self::capacity`].
    pub async fn nll(&self, ids: &[u32], from: usize) -> Result<Vec<f64>> {
        if from == 0 {
            return Err(Error::invalid("the first token of a text has no likelihood"));
        }
        let vocab = self.vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::invalid(format!("token {id} is not in the vocabulary of {vocab}")));
        }
        if from >= ids.len() {
            return Ok(Vec::new());
        }
        let inputs = &ids[..ids.len() - 1];
        if inputs.len() > self.capacity {
            return Err(Error::ContextOverflow { needed: inputs.len(), limit: self.capacity });
        }
        let token = |(row, &id): (usize, &u32)| {
            let position = row as u32;
            Token { id, position, first_key: 0, last_key: position }
        };
        let tokens: Vec<Token> = inputs.iter().enumerate().map(token).collect();
        self.context.write(&self.tokens, 0, bytemuck::cast_slice(&tokens));
        replay(&self.context, &self.blocks, &self.blocks_step, inputs.len());

        let mut nll = Vec::with_capacity(ids.len() - from);
        // The row before a token predicts it.
        for (chunk, targets) in ids[from..].chunks(HEAD_ROWS).enumerate() {
            self.take_rows(from - 1 + chunk * HEAD_ROWS, targets.len());
            replay(&self.context, &self.head, &self.head_step, targets.len());
            self.context.check()?;
            let logits: Vec<f32> =
                self.context.read(self.logits.buffer(), 0, targets.len() * vocab).await?;
            let rows = logits.chunks_exact(vocab);
            nll.extend(
                rows.zip(targets).map(|(row, &id)| log_sum_exp(row) - f64::from(row[id as usize])),
            );
        }
        Ok(nll)
    }

    /// Copies `count` rows of the hidden states to where the head reads.
    fn take_rows(&self, first: usize, count: usize) {
        let row = (self.hidden.cols() * size_of::<f32>()) as u64;
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        let (from, to) = (self.hidden.buffer(), self.rows.buffer());
        encoder.copy_buffer_to_buffer(from, first as u64 * row, to, 0, Some(count as u64 * row));
        self.context.queue().submit([encoder.finish()]);
    }
}

fn replay(context: &Context, recording: &Recording, step: &Buffer, tokens: usize) {
    let tokens = tokens as u32;
    context.write(step, 0, bytemuck::bytes_of(&Step { tokens, ..Default::default() }));
    recording.submit(tokens, 1);
}

/// `ln Σ exp(x)`, in f64; NaN if any of them is.
fn log_sum_exp(row: &[f32]) -> f64 {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}
