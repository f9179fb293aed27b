//! Tokens in, logits and greedy picks out, over a KV cache.
//!
//! Two recordings serve every call: one of up to [`CHUNK`] tokens for prompts, one of a single
//! token for decoding. The decode recording ends by writing the token it picked, at the next
//! position, where its own next replay reads it: several tokens run in one submit, and the host
//! reads ids back when it wants to.

use std::rc::Rc;

use crate::gpu::{Buffer, Context, Recording, Step};
use crate::kernels::{Tensor, Token, argmax::argmax, last_row::last_row};
use crate::model::{Adapter, GpuLlama, ModelConfig, rope_table};
use crate::ops::{GpuLora, GpuOps, KvCache, Ops};
use crate::{Error, Result};

/// Most prompt tokens in one replay.
const CHUNK: usize = 128;
/// The cache grows by that many tokens.
const CACHE_STEP: usize = 256;
/// Greedy picks the host can fall behind by.
const PICKS: usize = 64;

/// A conversation with a model on the GPU: its tokens so far, and what comes next.
#[derive(Debug)]
pub struct Decoder {
    context: Context,
    model: Rc<GpuLlama>,
    adapter: Option<Rc<Adapter<GpuLora>>>,
    /// Tokens whose keys and values are in the cache.
    history: Vec<u32>,
    prompt_step: Buffer,
    single_step: Buffer,
    prompt_tokens: Buffer,
    /// The one token of the next decode replay.
    next_token: Buffer,
    picks: Buffer,
    logits: Tensor,
    cached: Cached,
}

/// What is made anew when the cache grows.
#[derive(Debug)]
struct Cached {
    cache: KvCache,
    prompt: Recording,
    head: Recording,
    decode: Recording,
}

impl Decoder {
    /// A decoder with an empty cache.
    pub fn new(
        context: &Context,
        model: &Rc<GpuLlama>,
        adapter: Option<&Rc<Adapter<GpuLora>>>,
    ) -> Result<Self> {
        let uniform = || context.uniform("step", size_of::<Step>() as u64);
        let (prompt_step, single_step) = (uniform()?, uniform()?);
        let one = Step { tokens: 1, ..Default::default() };
        context.write(&single_step, 0, bytemuck::bytes_of(&one));
        let prompt_tokens =
            context.storage("prompt tokens", (CHUNK * size_of::<Token>()) as u64)?;
        let next_token = context.storage("next token", size_of::<Token>() as u64)?;
        let picks = context.storage("picks", (PICKS * 4) as u64)?;
        let logits = Tensor::new(context, 1, model.config.vocab_size)?;
        let shape = model.attention_shape();
        let capacity = CACHE_STEP.min(model.config.max_position_embeddings);
        let cache = KvCache::new(context, model.layers.len(), capacity, shape)?;
        let parts = Parts {
            context,
            model,
            adapter: adapter.map(Rc::as_ref),
            prompt_step: &prompt_step,
            single_step: &single_step,
            prompt_tokens: &prompt_tokens,
            next_token: &next_token,
            picks: &picks,
            logits: &logits,
        };
        let cached = parts.record(cache)?;
        Ok(Self {
            context: context.clone(),
            model: model.clone(),
            adapter: adapter.cloned(),
            history: Vec::new(),
            prompt_step,
            single_step,
            prompt_tokens,
            next_token,
            picks,
            logits,
            cached,
        })
    }

    /// Tokens in the cache.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// The longest context.
    pub fn limit(&self) -> usize {
        self.model.config.max_position_embeddings
    }

    /// Makes `ids` the context and computes what follows the last of them. Tokens that the cache
    /// already holds from the start are kept; returns how many tokens were computed.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`]; [`Error::Invalid`] if `ids` is empty or one is not in the
    /// vocabulary.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<usize> {
        check_ids(&self.model.config, ids)?;
        self.reserve(ids.len())?;
        let known = self.history.iter().zip(ids).take_while(|(a, b)| a == b).count();
        // The last token is computed in any case: its logits are what is asked for.
        let kept = known.min(ids.len() - 1);
        self.history.truncate(kept);
        let rest = &ids[kept..];
        for chunk in rest.chunks(CHUNK) {
            let token = |(i, &id): (usize, &u32)| {
                let position = (self.history.len() + i) as u32;
                Token { id, position, first_key: 0, last_key: position }
            };
            let tokens: Vec<Token> = chunk.iter().enumerate().map(token).collect();
            let step = Step { tokens: chunk.len() as u32, ..Default::default() };
            self.context.write(&self.prompt_tokens, 0, bytemuck::cast_slice(&tokens));
            self.context.write(&self.prompt_step, 0, bytemuck::bytes_of(&step));
            self.cached.prompt.submit(step.tokens, 1);
            self.history.extend(chunk);
            self.context.check()?;
        }
        // The head picks the token after this one.
        self.set_next(ids[ids.len() - 1], ids.len() - 1);
        self.cached.head.submit(1, 1);
        self.context.check()?;
        Ok(rest.len())
    }

    /// The logits (vocab_size) of what follows the context.
    pub async fn logits(&self) -> Result<Vec<f32>> {
        self.context.read(self.logits.buffer(), 0, self.logits.cols()).await
    }

    /// The most likely token after the context.
    pub async fn pick(&self) -> Result<u32> {
        let picks = self.read_picks(1).await?;
        Ok(picks[0])
    }

    /// Appends `id` to the context and computes what follows.
    pub fn advance(&mut self, id: u32) -> Result<()> {
        self.reserve(self.history.len() + 1)?;
        self.set_next(id, self.history.len());
        self.cached.decode.submit(1, 1);
        self.history.push(id);
        self.context.check()
    }

    /// Decodes greedily: appends [`Self::pick`] and the picks after it, `count` tokens in all in one
    /// submit, and returns them. What the caller does not want it takes back by
    /// [`Self::truncate`].
    ///
    /// # Errors
    /// [`Error::ContextOverflow`]; `count` is at most [`Self::MOST_GREEDY`].
    pub async fn advance_greedy(&mut self, count: usize) -> Result<Vec<u32>> {
        let mut picks = self.follow(count).await?;
        picks.truncate(count);
        Ok(picks)
    }

    /// [`Self::advance_greedy`], and after its picks the one that is not in the context yet.
    pub(super) async fn follow(&mut self, count: usize) -> Result<Vec<u32>> {
        if count == 0 || count > Self::MOST_GREEDY {
            let most = Self::MOST_GREEDY;
            return Err(Error::invalid(format!("1 to {most} tokens at a time, not {count}")));
        }
        self.reserve(self.history.len() + count)?;
        // The pick after the context is already in `next_token`.
        self.cached.decode.submit(1, count);
        let picks = self.read_picks(count + 1).await?;
        self.history.extend(&picks[..count]);
        Ok(picks)
    }

    /// Most tokens of one [`Self::advance_greedy`].
    pub const MOST_GREEDY: usize = PICKS / 2;

    /// Forgets all but the first `length` tokens of the context. What follows them is unknown until
    /// the next [`Self::prefill`] or [`Self::advance`].
    pub fn truncate(&mut self, length: usize) {
        self.history.truncate(length);
    }

    /// The last `count` picks; the last of them is for the position after the newest replay.
    async fn read_picks(&self, count: usize) -> Result<Vec<u32>> {
        let ring: Vec<u32> = self.context.read(&self.picks, 0, PICKS).await?;
        // Greedy replays are counted in only after this, so the first pick is at `len`.
        let first = self.history.len();
        Ok((0..count).map(|i| ring[(first + i) % PICKS]).collect())
    }

    fn set_next(&self, id: u32, position: usize) {
        let position = position as u32;
        let token = Token { id, position, first_key: 0, last_key: position };
        self.context.write(&self.next_token, 0, bytemuck::bytes_of(&token));
    }

    /// Makes room for `tokens` tokens in the cache.
    fn reserve(&mut self, tokens: usize) -> Result<()> {
        let limit = self.limit();
        if tokens > limit {
            return Err(Error::ContextOverflow { needed: tokens, limit });
        }
        if tokens <= self.cached.cache.capacity() {
            return Ok(());
        }
        let capacity = tokens.next_multiple_of(CACHE_STEP).min(limit);
        let shape = self.model.attention_shape();
        let cache = self.cached.cache.grown(&self.context, capacity, shape)?;
        let parts = Parts {
            context: &self.context,
            model: &self.model,
            adapter: self.adapter.as_deref(),
            prompt_step: &self.prompt_step,
            single_step: &self.single_step,
            prompt_tokens: &self.prompt_tokens,
            next_token: &self.next_token,
            picks: &self.picks,
            logits: &self.logits,
        };
        self.cached = parts.record(cache)?;
        Ok(())
    }
}

/// Refuses a text of no tokens, or with one that is not in the vocabulary.
pub(super) fn check_ids(config: &ModelConfig, ids: &[u32]) -> Result<()> {
    let vocab = config.vocab_size;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(Error::invalid(format!("token {id} is not in the vocabulary of {vocab}")));
    }
    if ids.is_empty() {
        return Err(Error::invalid("the prompt has no tokens; give it some text"));
    }
    Ok(())
}

/// What the recordings are made of.
struct Parts<'a> {
    context: &'a Context,
    model: &'a GpuLlama,
    adapter: Option<&'a Adapter<GpuLora>>,
    prompt_step: &'a Buffer,
    single_step: &'a Buffer,
    prompt_tokens: &'a Buffer,
    next_token: &'a Buffer,
    picks: &'a Buffer,
    logits: &'a Tensor,
}

impl Parts<'_> {
    fn record(&self, cache: KvCache) -> Result<Cached> {
        let Self { context, model, adapter, .. } = *self;
        let table = rope_table(&model.config, cache.capacity());
        let table = context.storage_from("rope table", &table)?;
        let ops = |step, tokens, capacity| {
            GpuOps::new(context, step, tokens, &table, capacity, Some(&cache))
        };

        let mut prompt = ops(self.prompt_step, self.prompt_tokens, CHUNK);
        let hidden = model.hidden(&mut prompt, adapter)?;
        let last = Tensor::new(context, 1, hidden.cols())?;
        last_row(prompt.recorder(), &hidden, &last)?;

        let mut head = ops(self.single_step, self.next_token, 1);
        self.pick(&mut head, &last)?;

        let mut decode = ops(self.single_step, self.next_token, 1);
        let hidden = model.hidden(&mut decode, adapter)?;
        self.pick(&mut decode, &hidden)?;

        let (prompt, head, decode) = (prompt.finish(), head.finish(), decode.finish());
        tracing::debug!("{} dispatches a decoded token", decode.len());
        Ok(Cached { cache, prompt, head, decode })
    }

    /// Logits of one token's `hidden`, and the greedy pick.
    fn pick(&self, ops: &mut GpuOps, hidden: &Tensor) -> Result<()> {
        let normed = ops.rms_norm(hidden, &self.model.norm, self.model.config.rms_norm_eps)?;
        ops.linear_into(&normed, &self.model.head(), None, None, self.logits)?;
        argmax(ops.recorder(), self.logits, self.next_token, self.picks)
    }
}
