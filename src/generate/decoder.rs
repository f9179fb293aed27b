//! Tokens in, logits and chosen tokens out, over a KV cache.

#[cfg(feature = "burn")]
use super::burn_decoder::BurnDecoder;
use super::gpu_decoder::{GpuDecoder, PICKS};
use super::model::{LoadedAdapter, Model};
use super::sampling::Sampling;
use crate::kernels::kv::KvType;
use crate::model::ModelConfig;
use crate::{Error, Result};

/// A conversation with a model: its tokens so far, and what comes next.
#[derive(Debug)]
pub struct Decoder {
    device: Device,
    config: ModelConfig,
    /// Tokens whose keys and values are in the cache.
    history: Vec<u32>,
    sampling: Sampling,
}

/// Who holds the cache and computes.
#[derive(Debug)]
enum Device {
    Gpu(Box<GpuDecoder>),
    #[cfg(feature = "burn")]
    Burn(Box<BurnDecoder>),
}

/// Both have the same methods.
macro_rules! on {
    ($device:expr, $decoder:ident => $call:expr) => {
        match $device {
            Device::Gpu($decoder) => $call,
            #[cfg(feature = "burn")]
            Device::Burn($decoder) => $call,
        }
    };
}

impl Decoder {
    /// A decoder with an empty cache, on a GPU in half-precision floats.
    ///
    /// # Errors
    /// Too little memory; an adapter that was loaded for another engine.
    pub fn new(model: &Model, adapter: Option<&LoadedAdapter>) -> Result<Self> {
        Self::with_cache(model, adapter, KvType::default())
    }

    /// [`Self::new`] with a cache of this type; burn's is always of [`KvType::F32`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_cache(model: &Model, adapter: Option<&LoadedAdapter>, kv: KvType) -> Result<Self> {
        let device = match model {
            Model::Gpu(gpu) => {
                let (model, adapter) = gpu.with(adapter)?;
                Device::Gpu(Box::new(GpuDecoder::new(&model, adapter.as_ref(), kv)?))
            }
            #[cfg(feature = "burn")]
            Model::Burn(burn) => {
                let adapter = adapter.map(LoadedAdapter::burn).transpose()?;
                Device::Burn(Box::new(BurnDecoder::new(burn, adapter)))
            }
        };
        let (config, history) = (model.config().clone(), Vec::new());
        Ok(Self { device, config, history, sampling: Sampling::default() })
    }

    /// How tokens are chosen from the next [`Self::prefill`] or [`Self::advance`] on; greedily, if
    /// this is never called.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn set_sampling(&mut self, sampling: &Sampling) -> Result<()> {
        sampling.check()?;
        self.sampling = sampling.clone();
        on!(&mut self.device, decoder => decoder.set_sampling(sampling));
        Ok(())
    }

    /// Tokens in the cache.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// The longest context.
    pub fn limit(&self) -> usize {
        self.config.max_position_embeddings
    }

    /// Dispatches that one decoded token takes, on the engine that records them.
    pub fn dispatches_per_token(&self) -> Option<usize> {
        match &self.device {
            Device::Gpu(decoder) => Some(decoder.dispatches_per_token()),
            #[cfg(feature = "burn")]
            Device::Burn(_) => None,
        }
    }

    /// Makes `ids` the context and computes what follows the last of them. Tokens that the cache
    /// already holds from the start are kept; returns how many tokens were computed.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`]; [`Error::Invalid`] if `ids` is empty or one is not in the
    /// vocabulary.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<usize> {
        check_ids(&self.config, ids)?;
        self.reserve(ids.len())?;
        let known = self.history.iter().zip(ids).take_while(|(a, b)| a == b).count();
        // The last token is computed in any case: its logits are what is asked for.
        let kept = known.min(ids.len() - 1);
        self.history.truncate(kept);
        let rest = &ids[kept..];
        self.history.extend(rest);
        let computed = on!(&mut self.device, decoder => decoder.prompt(&self.history, kept));
        if computed.is_err() {
            self.history.truncate(kept);
        }
        computed.map(|()| rest.len())
    }

    /// The logits (vocab_size) of what follows the context.
    pub async fn logits(&self) -> Result<Vec<f32>> {
        on!(&self.device, decoder => decoder.logits().await)
    }

    /// The token chosen after the context: the most likely one, or by [`Self::set_sampling`].
    ///
    /// # Errors
    /// [`Error::Gpu`] if no logit is a number.
    pub async fn pick(&self) -> Result<u32> {
        on!(&self.device, decoder => decoder.pick(&self.history).await)
    }

    /// Appends `id` to the context and computes what follows.
    pub fn advance(&mut self, id: u32) -> Result<()> {
        check_ids(&self.config, &[id])?;
        self.reserve(self.history.len() + 1)?;
        self.history.push(id);
        let computed = on!(&mut self.device, decoder => decoder.step(&self.history));
        if computed.is_err() {
            self.history.pop();
        }
        computed
    }

    /// Appends [`Self::pick`] and the picks after it, `count` tokens in all in one submit, and
    /// returns them. What the caller does not want it takes back by [`Self::truncate`].
    ///
    /// # Errors
    /// [`Error::ContextOverflow`]; `count` is at most [`Self::MOST_PICKS`].
    pub async fn extend(&mut self, count: usize) -> Result<Vec<u32>> {
        let mut picks = self.follow(count).await?;
        picks.truncate(count);
        Ok(picks)
    }

    /// [`Self::extend`], and after its picks the one that is not in the context yet.
    pub(super) async fn follow(&mut self, count: usize) -> Result<Vec<u32>> {
        if count == 0 || count > Self::MOST_PICKS {
            let most = Self::MOST_PICKS;
            return Err(Error::invalid(format!("1 to {most} tokens at a time, not {count}")));
        }
        self.reserve(self.history.len() + count)?;
        let picks = on!(&mut self.device, decoder => decoder.follow(&self.history, count).await)?;
        self.history.extend(&picks[..count]);
        Ok(picks)
    }

    /// Seconds by `clock` that the host takes to encode and submit `count` picks, and none where
    /// nothing is recorded. Their tokens are lost, so that [`Self::prefill`] comes next.
    pub(crate) fn encoding_seconds(
        &mut self,
        count: usize,
        clock: &dyn Fn() -> f64,
    ) -> Result<Option<f64>> {
        self.reserve(self.history.len() + count)?;
        match &mut self.device {
            Device::Gpu(decoder) => {
                let began = clock();
                decoder.submit(count)?;
                Ok(Some(clock() - began))
            }
            #[cfg(feature = "burn")]
            Device::Burn(_) => Ok(None),
        }
    }

    /// Most tokens of one [`Self::extend`].
    pub const MOST_PICKS: usize = PICKS / 2;

    /// Forgets all but the first `length` tokens of the context. What follows them is unknown until
    /// the next [`Self::prefill`] or [`Self::advance`].
    pub fn truncate(&mut self, length: usize) {
        self.history.truncate(length);
    }

    /// Makes room for `tokens` tokens in the cache.
    fn reserve(&mut self, tokens: usize) -> Result<()> {
        let limit = self.limit();
        if tokens > limit {
            return Err(Error::ContextOverflow { needed: tokens, limit });
        }
        on!(&mut self.device, decoder => decoder.reserve(tokens))
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
