//! A forward pass over a whole text without a cache.
//!
//! The blocks run over all tokens at once, the LM head over as many of them as are asked for, so
//! that the logits of a long text never stand in memory whole.

#[cfg(feature = "burn")]
use super::burn_decoder::BurnForward;
use super::gpu_forward::GpuForward;
use super::model::{LoadedAdapter, Model};
use crate::data::token::Token;
use crate::{Error, Result};

/// A model, with or without an adapter, ready for texts of up to [`Self::capacity`] tokens.
#[derive(Debug)]
pub struct Forward {
    device: Device,
    capacity: usize,
    vocab_size: usize,
    /// Tokens of the last text.
    length: usize,
}

#[derive(Debug)]
enum Device {
    Gpu(Box<GpuForward>),
    #[cfg(feature = "burn")]
    Burn(Box<BurnForward>),
}

impl Forward {
    /// Most rows of one [`Self::logits`].
    pub const MOST_ROWS: usize = 32;

    /// Prepares for up to `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`] for more tokens than the model's context; too little memory.
    pub fn new(model: &Model, adapter: Option<&LoadedAdapter>, capacity: usize) -> Result<Self> {
        let config = model.config();
        let limit = config.max_position_embeddings;
        if capacity > limit {
            return Err(Error::ContextOverflow { needed: capacity, limit });
        }
        let vocab_size = config.vocab_size;
        let device = match model {
            Model::Gpu(gpu) => {
                let (model, adapter) = gpu.with(adapter)?;
                let (rows, adapter) = (Self::MOST_ROWS, adapter.as_deref());
                Device::Gpu(Box::new(GpuForward::new(&model, adapter, capacity, rows)?))
            }
            #[cfg(feature = "burn")]
            Model::Burn(burn) => {
                let adapter = adapter.map(LoadedAdapter::burn).transpose()?;
                Device::Burn(Box::new(BurnForward::new(burn, adapter)))
            }
        };
        Ok(Self { device, capacity, vocab_size, length: 0 })
    }

    /// The longest text.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Computes the hidden states of `ids`.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`] beyond [`Self::capacity`]; an id that is not in the vocabulary.
    pub fn run(&mut self, ids: &[u32]) -> Result<()> {
        let (needed, limit, vocab) = (ids.len(), self.capacity, self.vocab_size);
        if needed > limit {
            return Err(Error::ContextOverflow { needed, limit });
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::invalid(format!("token {id} is not in the vocabulary of {vocab}")));
        }
        let token = |(position, &id)| Token { id, position, first_key: 0, last_key: position };
        let tokens: Vec<Token> = (0..).zip(ids).map(token).collect();
        self.length = tokens.len();
        match &mut self.device {
            Device::Gpu(gpu) => gpu.run(&tokens),
            #[cfg(feature = "burn")]
            Device::Burn(burn) => burn.run(&tokens),
        }
    }

    /// The logits (count, vocab_size), row-major, of what follows `count` tokens of the text, from
    /// token `first` on.
    ///
    /// # Errors
    /// Tokens beyond the text, or more than [`Self::MOST_ROWS`].
    pub async fn logits(&mut self, first: usize, count: usize) -> Result<Vec<f32>> {
        let end = first.saturating_add(count);
        if end > self.length || count > Self::MOST_ROWS {
            let (length, most) = (self.length, Self::MOST_ROWS);
            return Err(Error::invalid(format!(
                "logits of {first}..{end} of {length} tokens; at most {most} at a time"
            )));
        }
        match &mut self.device {
            Device::Gpu(gpu) => gpu.logits(first, count).await,
            #[cfg(feature = "burn")]
            Device::Burn(burn) => burn.logits(first, count).await,
        }
    }
}
