//! The logits of every position of a text at once, for comparisons.

use std::rc::Rc;

use super::Engine;
use super::decoder::check_ids;
use crate::gpu::{Recorder, Step};
use crate::kernels::matmul::matmul;
use crate::kernels::{Tensor, Token};
use crate::model::{Adapter, rope_table};
use crate::ops::{GpuLora, GpuOps, Ops};
use crate::{Error, Result};

/// Most bytes of logits that are on the GPU at a time, unless one token has more.
const CHUNK_BYTES: usize = 16 << 20;

impl Engine {
    /// The logits (T, vocab_size), row-major, of what follows each of the T tokens of `ids`, in one
    /// pass without a cache.
    ///
    /// # Errors
    /// No ids, one that is not in the vocabulary, more than the model's context, or too little
    /// memory.
    pub async fn logits_all(
        &self,
        ids: &[u32],
        adapter: Option<&Adapter<GpuLora>>,
    ) -> Result<Vec<f32>> {
        let (context, model) = (self.context(), self.model());
        let config = &model.config;
        check_ids(config, ids)?;
        let limit = config.max_position_embeddings;
        if ids.len() > limit {
            return Err(Error::ContextOverflow { needed: ids.len(), limit });
        }
        let tokens: Vec<Token> = (0..)
            .zip(ids)
            .map(|(position, &id)| Token { id, position, first_key: 0, last_key: position })
            .collect();
        let tokens = context.storage_from("tokens", &tokens)?;
        let table = context.storage_from("rope table", &rope_table(config, ids.len()))?;
        let step = context.uniform("step", size_of::<Step>() as u64)?;
        let count = Step { tokens: ids.len() as u32, ..Default::default() };
        context.write(&step, 0, bytemuck::bytes_of(&count));

        let mut ops = GpuOps::new(context, &step, &tokens, &table, ids.len(), None);
        let hidden = model.hidden(&mut ops, adapter)?;
        let normed = ops.rms_norm(&hidden, &model.norm, config.rms_norm_eps)?;
        ops.finish().submit(count.tokens, 1);

        let vocab = config.vocab_size;
        let mut all: Vec<f32> = Vec::new();
        all.try_reserve_exact(ids.len().saturating_mul(vocab)).map_err(|_| {
            Error::invalid(format!("the logits of {} tokens do not fit the memory", ids.len()))
        })?;
        let rows = (CHUNK_BYTES / 4 / vocab).clamp(1, ids.len());
        let logits = Rc::new(context.storage("logits", (rows * vocab * 4) as u64)?);
        let head = model.head();
        for begin in (0..ids.len()).step_by(rows) {
            let part = normed.window(begin, rows.min(ids.len() - begin));
            // The same tokens, but from the buffer's start.
            let out = Tensor::in_buffer(logits.clone(), part.rows(), vocab);
            let mut recorder = Recorder::new(context, &step);
            matmul(&mut recorder, &part, &head.weight, head.bias.as_ref(), None, &out)?;
            recorder.finish().submit(count.tokens, 1);
            all.extend(context.read::<f32>(out.buffer(), 0, part.capacity() * vocab).await?);
        }
        Ok(all)
    }
}
