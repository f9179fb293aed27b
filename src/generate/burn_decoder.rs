//! A decoder's and a forward pass's work on burn.

use std::rc::Rc;

use burn::tensor::Tensor;

use super::sampling::Sampling;
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
    sampling: Sampling,
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
            sampling: Sampling::default(),
            logits: None,
        }
    }

    pub(super) fn set_sampling(&mut self, sampling: &Sampling) {
        self.sampling = sampling.clone();
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

    /// Computes the tokens of `text` from `start` on, and what follows the last of them.
    pub(super) fn prompt(&mut self, text: &[u32], start: usize) -> Result<()> {
        let BurnModel { device, llama } = &*self.model;
        let adapter = self.adapter.as_ref().map(|adapter| &adapter.0);
        let head_dim = llama.config.head_dim;
        for (begin, chunk) in (start..).step_by(CHUNK).zip(text[start..].chunks(CHUNK)) {
            let batch = Packed::after(device, chunk, begin, &self.rope_table, head_dim)?;
            let mut ops = BurnOps::with_cache(&batch, &mut self.cache);
            let hidden = llama.hidden(&mut ops, adapter)?;
            if begin + chunk.len() == text.len() {
                let last = hidden.slice(chunk.len() - 1..chunk.len());
                self.logits = Some(llama.logits(&mut ops, &last, adapter)?);
            }
        }
        Ok(())
    }

    pub(super) fn step(&mut self, text: &[u32]) -> Result<()> {
        self.prompt(text, text.len() - 1)
    }

    pub(super) async fn logits(&self) -> Result<Vec<f32>> {
        match &self.logits {
            Some(logits) => read(logits.clone()).await,
            None => Err(Error::invalid("nothing was computed yet; prefill a prompt first")),
        }
    }

    pub(super) async fn pick(&self, text: &[u32]) -> Result<u32> {
        self.sampling.choose(&self.logits().await?, text)
    }

    pub(super) async fn follow(&mut self, text: &[u32], count: usize) -> Result<Vec<u32>> {
        let mut text = text.to_vec();
        let first = text.len();
        text.push(self.pick(&text).await?);
        for _ in 0..count {
            self.step(&text)?;
            text.push(self.pick(&text).await?);
        }
        Ok(text.split_off(first))
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
        let adapter = self.adapter.as_ref().map(|adapter| &adapter.0);
        read(self.model.llama.logits(&mut BurnOps::new(batch), &rows, adapter)?).await
    }
}
