//! A decoder's work on the GPU.
//!
//! Two recordings serve every call: one of up to [`CHUNK`] tokens for prompts, one of a single
//! token for decoding. The decode recording ends by writing the token it picked, at the next
//! position, where its own next replay reads it: several tokens run in one submit, and the host
//! reads ids back when it wants to.

use std::rc::Rc;

use super::model::GpuModel;
use crate::Result;
use crate::gpu::{Buffer, Recording, Step};
use crate::kernels::{Tensor, Token, argmax::argmax, last_row::last_row};
use crate::model::{Adapter, rope_table};
use crate::ops::{GpuLora, GpuOps, KvCache, Ops};

/// Most prompt tokens in one replay.
const CHUNK: usize = 128;
/// The cache grows by that many tokens.
const CACHE_STEP: usize = 256;
/// Greedy picks the host can fall behind by.
pub(super) const PICKS: usize = 64;

/// Recordings and what they work on.
#[derive(Debug)]
pub(super) struct GpuDecoder {
    parts: Parts,
    cached: Cached,
}

/// What the recordings are made of.
#[derive(Debug)]
struct Parts {
    model: GpuModel,
    adapter: Option<Rc<Adapter<GpuLora>>>,
    prompt_step: Buffer,
    single_step: Buffer,
    prompt_tokens: Buffer,
    /// The one token of the next decode replay.
    next_token: Buffer,
    picks: Buffer,
    logits: Tensor,
}

/// What is made anew when the cache grows.
#[derive(Debug)]
struct Cached {
    cache: KvCache,
    prompt: Recording,
    head: Recording,
    decode: Recording,
}

impl GpuDecoder {
    /// An empty cache.
    pub(super) fn new(model: &GpuModel, adapter: Option<&Rc<Adapter<GpuLora>>>) -> Result<Self> {
        let GpuModel { context, llama } = model;
        let uniform = || context.uniform("step", size_of::<Step>() as u64);
        let (prompt_step, single_step) = (uniform()?, uniform()?);
        let one = Step { tokens: 1, ..Default::default() };
        context.write(&single_step, 0, bytemuck::bytes_of(&one));
        let parts = Parts {
            model: model.clone(),
            adapter: adapter.cloned(),
            prompt_step,
            single_step,
            prompt_tokens: context.storage("prompt tokens", (CHUNK * size_of::<Token>()) as u64)?,
            next_token: context.storage("next token", size_of::<Token>() as u64)?,
            picks: context.storage("picks", (PICKS * 4) as u64)?,
            logits: Tensor::new(context, 1, llama.config.vocab_size)?,
        };
        let capacity = CACHE_STEP.min(llama.config.max_position_embeddings);
        let cache = KvCache::new(context, llama.layers.len(), capacity, llama.attention_shape())?;
        let cached = parts.record(cache)?;
        Ok(Self { parts, cached })
    }

    /// Dispatches of one decoded token.
    pub(super) fn dispatches_per_token(&self) -> usize {
        self.cached.decode.len()
    }

    /// Makes room for `tokens` tokens, which the model's context has.
    pub(super) fn reserve(&mut self, tokens: usize) -> Result<()> {
        if tokens <= self.cached.cache.capacity() {
            return Ok(());
        }
        let GpuModel { context, llama } = &self.parts.model;
        let limit = llama.config.max_position_embeddings;
        let capacity = tokens.next_multiple_of(CACHE_STEP).min(limit);
        let cache = self.cached.cache.grown(context, capacity, llama.attention_shape())?;
        self.cached = self.parts.record(cache)?;
        Ok(())
    }

    /// Computes `ids` at the positions from `start` on, and what follows the last of them.
    pub(super) fn prompt(&mut self, start: usize, ids: &[u32]) -> Result<()> {
        let context = &self.parts.model.context;
        for (begin, chunk) in (start..).step_by(CHUNK).zip(ids.chunks(CHUNK)) {
            let token = |(position, &id)| one_token(id, position);
            let tokens: Vec<Token> = (begin..).zip(chunk).map(token).collect();
            let step = Step { tokens: chunk.len() as u32, ..Default::default() };
            context.write(&self.parts.prompt_tokens, 0, bytemuck::cast_slice(&tokens));
            context.write(&self.parts.prompt_step, 0, bytemuck::bytes_of(&step));
            self.cached.prompt.submit(step.tokens, 1);
            context.check()?;
        }
        if let Some(&last) = ids.last() {
            // The head picks the token after this one.
            self.set_next(last, start + ids.len() - 1);
            self.cached.head.submit(1, 1);
        }
        context.check()
    }

    /// Computes the token `id` at `position`, and what follows it.
    pub(super) fn step(&mut self, id: u32, position: usize) -> Result<()> {
        self.set_next(id, position);
        self.cached.decode.submit(1, 1);
        self.parts.model.context.check()
    }

    /// The logits (vocab_size) of what follows.
    pub(super) async fn logits(&self) -> Result<Vec<f32>> {
        let logits = &self.parts.logits;
        self.parts.model.context.read(logits.buffer(), 0, logits.cols()).await
    }

    /// The most likely token at `position`, which is the first one not computed.
    pub(super) async fn pick(&self, position: usize) -> Result<u32> {
        Ok(self.read_picks(position, 1).await?[0])
    }

    /// Computes the most likely tokens at `count` positions from `position`, the first one not
    /// computed, and returns them with the one after them. `count` is below [`PICKS`].
    pub(super) async fn follow(&mut self, position: usize, count: usize) -> Result<Vec<u32>> {
        // The first pick is already in `next_token`.
        self.cached.decode.submit(1, count);
        self.read_picks(position, count + 1).await
    }

    async fn read_picks(&self, first: usize, count: usize) -> Result<Vec<u32>> {
        let ring: Vec<u32> = self.parts.model.context.read(&self.parts.picks, 0, PICKS).await?;
        Ok((0..count).map(|i| ring[(first + i) % PICKS]).collect())
    }

    fn set_next(&self, id: u32, position: usize) {
        let token = one_token(id, position);
        self.parts.model.context.write(&self.parts.next_token, 0, bytemuck::bytes_of(&token));
    }
}

/// A token that sees all before it.
fn one_token(id: u32, position: usize) -> Token {
    let position = position as u32;
    Token { id, position, first_key: 0, last_key: position }
}

impl Parts {
    fn record(&self, cache: KvCache) -> Result<Cached> {
        let GpuModel { context, llama } = &self.model;
        let adapter = self.adapter.as_deref();
        let table = rope_table(&llama.config, cache.capacity());
        let table = context.storage_from("rope table", &table)?;
        let ops = |step, tokens, capacity| {
            GpuOps::new(context, step, tokens, &table, capacity, Some(&cache))
        };

        let mut prompt = ops(&self.prompt_step, &self.prompt_tokens, CHUNK);
        let hidden = llama.hidden(&mut prompt, adapter)?;
        let last = Tensor::new(context, 1, hidden.cols())?;
        last_row(prompt.recorder(), &hidden, &last)?;

        let mut head = ops(&self.single_step, &self.next_token, 1);
        self.pick(&mut head, &last)?;

        let mut decode = ops(&self.single_step, &self.next_token, 1);
        let hidden = llama.hidden(&mut decode, adapter)?;
        self.pick(&mut decode, &hidden)?;

        let (prompt, head, decode) = (prompt.finish(), head.finish(), decode.finish());
        tracing::debug!("{} dispatches a decoded token", decode.len());
        Ok(Cached { cache, prompt, head, decode })
    }

    /// Logits of one token's `hidden`, and the greedy pick.
    fn pick(&self, ops: &mut GpuOps, hidden: &Tensor) -> Result<()> {
        let llama = &self.model.llama;
        let normed = ops.rms_norm(hidden, &llama.norm, llama.config.rms_norm_eps)?;
        ops.linear_into(&normed, &llama.head(), None, None, &self.logits)?;
        argmax(ops.recorder(), &self.logits, &self.next_token, &self.picks)
    }
}
