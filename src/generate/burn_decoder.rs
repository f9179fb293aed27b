//! A decoder's and a forward pass's work on burn.

use std::rc::Rc;

use burn::tensor::Tensor;

use crate::burn::{BurnAdapter, BurnCache, BurnModel, BurnOps, Packed, read};
use crate::data::token::Token;
use crate::model::rope_table;
use crate::{Error, Result};

/// The cache grows by that many tokens.
const CACHE_STEP: usize = 256;
/// Most prompt tokens at once: bounds the scores of attention.
const CHUNK: usize = 256;

/// A cache and what follows its last token.
#[derive(Debug)]
pub(super) struct BurnDecoder {
    model: Rc<BurnModel>,
    adapter: Option<Rc<BurnAdapter>>,
    cache: BurnCache,
    rope_table: Vec<f32>,
    /// (1, vocab_size)
    logits: Option<Tensor<2>>,
}

impl BurnDecoder {
    pub(super) fn new(model: &Rc<BurnModel>, adapter: Option<&Rc<BurnAdapter>>) -> Self {
        let llama = &model.llama;
        let capacity = CACHE_STEP.min(llama.config.max_position_embeddings);
        Self {
            model: model.clone(),
            adapter: adapter.cloned(),
            cache: BurnCache::new(
                &model.device,
                llama.layers.len(),
                capacity,
                llama.attention_shape(),
            ),
            rope_table: rope_table(&llama.config, capacity),
            logits: None,
        }
    }

    pub(super) fn reserve(&mut self, tokens: usize) -> Result<()> {
        if tokens > self.cache.capacity() {
            let config = &self.model.llama.config;
            let capacity = tokens.next_multiple_of(CACHE_STEP).min(config.max_position_embeddings);
            self.cache.grow(&self.model.device, capacity);
            self.rope_table = rope_table(config, capacity);
        }
        Ok(())
    }

    pub(super) fn prompt(&mut self, start: usize, ids: &[u32]) -> Result<()> {
        let BurnModel { device, llama } = &*self.model;
        let adapter = self.adapter.as_ref().map(|adapter| &adapter.0);
        let head_dim = llama.config.head_dim;
        for (begin, chunk) in (start..).step_by(CHUNK).zip(ids.chunks(CHUNK)) {
            let batch = Packed::after(device, chunk, begin, &self.rope_table, head_dim)?;
            let mut ops = BurnOps::with_cache(&batch, &mut self.cache);
            let hidden = llama.hidden(&mut ops, adapter)?;
            if begin + chunk.len() == start + ids.len() {
                let last = hidden.slice(chunk.len() - 1..chunk.len());
                self.logits = Some(llama.logits(&mut ops, &last)?);
            }
        }
        Ok(())
    }

    pub(super) fn step(&mut self, id: u32, position: usize) -> Result<()> {
        self.prompt(position, &[id])
    }

    pub(super) async fn logits(&self) -> Result<Vec<f32>> {
        match &self.logits {
            Some(logits) => read(logits.clone()).await,
            None => Err(Error::invalid("nothing was computed yet; prefill a prompt first")),
        }
    }

    /// Of equals the first, as the kernels have it.
    pub(super) async fn pick(&self, _position: usize) -> Result<u32> {
        let logits = self.logits().await?;
        let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
        Ok((0..logits.len()).reduce(better).unwrap_or(0) as u32)
    }

    pub(super) async fn follow(&mut self, position: usize, count: usize) -> Result<Vec<u32>> {
        let mut picks = vec![self.pick(position).await?];
        for position in position..position + count {
            self.step(picks[picks.len() - 1], position)?;
            picks.push(self.pick(position + 1).await?);
        }
        Ok(picks)
    }
}

/// [`Forward`](super::Forward) on burn.
#[derive(Debug)]
pub(super) struct BurnForward {
    model: Rc<BurnModel>,
    adapter: Option<Rc<BurnAdapter>>,
    /// The last text's, and (T, hidden_size) after the last block.
    done: Option<(Packed, Tensor<2>)>,
}

impl BurnForward {
    pub(super) fn new(model: &Rc<BurnModel>, adapter: Option<&Rc<BurnAdapter>>) -> Self {
        Self { model: model.clone(), adapter: adapter.cloned(), done: None }
    }

    pub(super) fn run(&mut self, tokens: &[Token]) -> Result<()> {
        let BurnModel { device, llama } = &*self.model;
        let table = rope_table(&llama.config, tokens.len());
        let batch = Packed::new(device, tokens, &table, llama.config.head_dim)?;
        let adapter = self.adapter.as_ref().map(|adapter| &adapter.0);
        let hidden = llama.hidden(&mut BurnOps::new(&batch), adapter)?;
        self.done = Some((batch, hidden));
        Ok(())
    }

    pub(super) async fn logits(&mut self, first: usize, count: usize) -> Result<Vec<f32>> {
        let Some((batch, hidden)) = &self.done else {
            return Err(Error::invalid("nothing was computed yet; run a text first"));
        };
        let rows = hidden.clone().slice(first..first + count);
        read(self.model.llama.logits(&mut BurnOps::new(batch), &rows)?).await
    }
}
