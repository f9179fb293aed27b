//! A decoder's work on the GPU.
//!
//! Two recordings serve every call: one of up to [`CHUNK`] tokens for prompts, one of a single
//! token for decoding. The decode recording ends by writing the token it picked, at the next
//! position, where its own next replay reads it: several tokens run in one submit, and the host
//! reads ids back when it wants to.

use std::rc::Rc;

use super::model::GpuModel;
use super::sampling::{Sampling, check_pick};
use crate::gpu::{Buffer, Recording, Step};
use crate::kernels::kv::KvType;
use crate::kernels::last_row::last_row;
use crate::kernels::sample::{Choice, GREEDY, sample, seen_bits, seen_words};
use crate::kernels::{Tensor, Token};
use crate::model::{Adapter, Module, rope_table};
use crate::ops::{GpuLora, GpuOps, KvCache, Ops};
use crate::{Error, Result};

/// Most prompt tokens in one replay.
const CHUNK: usize = 128;
/// The cache grows by that many tokens.
const CACHE_STEP: usize = 256;
/// Picks that the host can fall behind by.
pub(super) const PICKS: usize = 64;

/// Recordings and what they work on.
#[derive(Debug)]
pub(super) struct GpuDecoder {
    parts: Parts,
    cache: KvCache,
    /// Made anew when the cache grows; none if there was too little memory for that.
    recordings: Option<Recordings>,
    /// Whether the choice of a token depends on those before it.
    penalises: bool,
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
    sampling: Buffer,
    seen: Buffer,
    picks: Buffer,
    logits: Tensor,
}

#[derive(Debug)]
struct Recordings {
    prompt: Recording,
    head: Recording,
    decode: Recording,
}

impl GpuDecoder {
    /// An empty cache.
    pub(super) fn new(
        model: &GpuModel,
        adapter: Option<&Rc<Adapter<GpuLora>>>,
        kv: KvType,
    ) -> Result<Self> {
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
            sampling: context.storage_from("sampling", &[GREEDY])?,
            seen: context.storage("seen", (seen_words(llama.config.vocab_size) * 4) as u64)?,
            picks: context.storage("picks", (PICKS * 4) as u64)?,
            logits: Tensor::new(context, 1, llama.config.vocab_size)?,
        };
        let capacity = CACHE_STEP.min(llama.config.max_position_embeddings);
        let (blocks, shape) = (llama.layers.len(), llama.attention_shape());
        let cache = KvCache::new(context, blocks, capacity, shape, kv)?;
        let recordings = Some(parts.record(&cache)?);
        Ok(Self { parts, cache, recordings, penalises: false })
    }

    /// Dispatches of one decoded token.
    pub(super) fn dispatches_per_token(&self) -> usize {
        self.recordings.as_ref().map_or(0, |recordings| recordings.decode.len())
    }

    /// Makes room for `tokens` tokens, which the model's context has.
    pub(super) fn reserve(&mut self, tokens: usize) -> Result<()> {
        if tokens <= self.cache.capacity() && self.recordings.is_some() {
            return Ok(());
        }
        let GpuModel { context, llama } = &self.parts.model;
        let limit = llama.config.max_position_embeddings;
        let capacity = tokens.next_multiple_of(CACHE_STEP).min(limit).max(self.cache.capacity());
        // They hold the old cache.
        self.recordings = None;
        let grown = self.cache.grow(context, capacity);
        self.recordings = Some(self.parts.record(&self.cache)?);
        grown
    }

    fn recordings(&self) -> Result<&Recordings> {
        let missing = || Error::OutOfMemory("there was no room for the decoder".into());
        self.recordings.as_ref().ok_or_else(missing)
    }

    /// From the next token that is computed on.
    pub(super) fn set_sampling(&mut self, sampling: &Sampling) {
        self.penalises = sampling.repeat_penalty != 1.0;
        let params = sampling.params();
        self.parts.model.context.write(&self.parts.sampling, 0, bytemuck::bytes_of(&params));
    }

    /// Computes the tokens of `text` from `start` on, and what follows the last of them.
    pub(super) fn prompt(&mut self, text: &[u32], start: usize) -> Result<()> {
        let context = &self.parts.model.context;
        for (begin, chunk) in (start..).step_by(CHUNK).zip(text[start..].chunks(CHUNK)) {
            let token = |(position, &id)| one_token(id, position);
            let tokens: Vec<Token> = (begin..).zip(chunk).map(token).collect();
            let step = Step { tokens: chunk.len() as u32, ..Default::default() };
            context.write(&self.parts.prompt_tokens, 0, bytemuck::cast_slice(&tokens));
            context.write(&self.parts.prompt_step, 0, bytemuck::bytes_of(&step));
            self.recordings()?.prompt.submit(step.tokens, 1)?;
        }
        // The head picks the token after this one.
        self.set_next(text);
        self.recordings()?.head.submit(1, 1)
    }

    /// Computes the last token of `text`, and what follows it.
    pub(super) fn step(&mut self, text: &[u32]) -> Result<()> {
        self.set_next(text);
        self.recordings()?.decode.submit(1, 1)
    }

    /// The logits (vocab_size) of what follows.
    pub(super) async fn logits(&self) -> Result<Vec<f32>> {
        let logits = &self.parts.logits;
        self.parts.model.context.read(logits.buffer(), 0, logits.cols()).await
    }

    /// The token chosen after `text`, which was computed.
    pub(super) async fn pick(&self, text: &[u32]) -> Result<u32> {
        Ok(self.read_picks(text.len(), 1).await?[0])
    }

    /// Computes the tokens chosen after `text` at `count` positions, and returns them with the one
    /// after them. `count` is below [`PICKS`].
    pub(super) async fn follow(&mut self, text: &[u32], count: usize) -> Result<Vec<u32>> {
        self.submit(count)?;
        self.read_picks(text.len(), count + 1).await
    }

    /// The GPU's part of [`Self::follow`].
    pub(super) fn submit(&mut self, count: usize) -> Result<()> {
        // The first pick is already in `next_token`.
        self.recordings()?.decode.submit(1, count)
    }

    async fn read_picks(&self, first: usize, count: usize) -> Result<Vec<u32>> {
        let ring: Vec<u32> = self.parts.model.context.read(&self.parts.picks, 0, PICKS).await?;
        (0..count).map(|i| check_pick(ring[(first + i) % PICKS])).collect()
    }

    /// The last token of `text` is computed next.
    fn set_next(&self, text: &[u32]) {
        let Some((&id, before)) = text.split_last() else { return };
        let Parts { model: GpuModel { context, llama }, next_token, seen, .. } = &self.parts;
        let token = one_token(id, before.len());
        context.write(next_token, 0, bytemuck::bytes_of(&token));
        if self.penalises {
            let bits = seen_bits(llama.config.vocab_size, text);
            context.write(seen, 0, bytemuck::cast_slice(&bits));
        }
    }
}

/// A token that sees all before it.
fn one_token(id: u32, position: usize) -> Token {
    let position = position as u32;
    Token { id, position, first_key: 0, last_key: position }
}

impl Parts {
    fn record(&self, cache: &KvCache) -> Result<Recordings> {
        let GpuModel { context, llama } = &self.model;
        let adapter = self.adapter.as_deref();
        let table = rope_table(&llama.config, cache.capacity());
        let table = context.storage_from("rope table", &table)?;
        let ops = |step, tokens, capacity| {
            GpuOps::new(context, step, tokens, &table, capacity, Some(cache))
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
        Ok(Recordings { prompt, head, decode })
    }

    /// Logits of one token's `hidden`, and the choice of the next one.
    fn pick(&self, ops: &mut GpuOps, hidden: &Tensor) -> Result<()> {
        let llama = &self.model.llama;
        let normed = ops.rms_norm(hidden, &llama.norm, llama.config.rms_norm_eps)?;
        let update = self.adapter.as_ref().and_then(|adapter| adapter.of(Module::Head));
        ops.linear_into(&normed, &llama.head(), update, None, &self.logits)?;
        let choice = Choice {
            sampling: &self.sampling,
            token: &self.next_token,
            seen: &self.seen,
            picks: &self.picks,
        };
        sample(ops.recorder(), &self.logits, choice)
    }
}
