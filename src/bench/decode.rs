//! Prompts and decoding.

use super::{Bench, Counts, Figure};
use crate::Result;
use crate::model::{AdapterTensors, AnyAdapter, Target};

/// Tokens of one submit.
const TOGETHER: usize = 8;
/// Of the adapters that are switched: the original experiment's.
const BLOCKS: usize = 16;
const RANK: usize = 8;

impl Bench<'_> {
    /// Tokens/s of prompts of these lengths, the first new token included in the time; those that the
    /// model's context is too short for are left out.
    pub async fn prefill(&self, lengths: &[usize]) -> Result<Vec<Figure>> {
        let mut decoder = self.engine.decoder(None)?;
        let mut figures = Vec::new();
        for &length in lengths.iter().filter(|&&length| self.fits(length, 1)) {
            let mut salt = 0;
            let once = async || {
                salt += 1;
                let ids = self.text(length, salt, 1)?;
                decoder.truncate(0);
                let began = (self.clock)();
                decoder.prefill(&ids)?;
                decoder.pick().await?;
                Ok(length as f64 / ((self.clock)() - began))
            };
            let name = format!("prefill, {length} tokens");
            figures.push(self.take(name, "tokens/s", once).await?);
        }
        Ok(figures)
    }

    /// Milliseconds from one loaded adapter to another: a decoder that is ready for a prompt. The base
    /// stays where it is.
    async fn switch(&self) -> Result<Figure> {
        let config = self.engine.config();
        let blocks = config.num_hidden_layers;
        let some = blocks.saturating_sub(BLOCKS)..blocks;
        let mut adapters = Vec::new();
        for seed in [1, 2] {
            let init = AdapterTensors::init(config, some.clone(), &Target::ALL, RANK, 1.0, seed)?;
            adapters.push(self.engine.load_adapter("made up", &AnyAdapter::Lora(init))?);
        }
        let mut count = 0;
        let once = async || {
            count += 1;
            let began = (self.clock)();
            let decoder = self.engine.decoder(adapters.get(count % 2))?;
            let seconds = (self.clock)() - began;
            drop(decoder);
            Ok(seconds * 1e3)
        };
        self.take("adapter switch", "ms", once).await
    }

    /// Seconds to the first token of a prompt of 32 tokens by a decoder that is made for it.
    pub async fn first_token(&self) -> Result<Vec<Figure>> {
        let ids = self.text(32, 0, 1)?;
        let once = async || {
            let began = (self.clock)();
            let mut decoder = self.engine.decoder(None)?;
            decoder.prefill(&ids)?;
            decoder.pick().await?;
            Ok((self.clock)() - began)
        };
        Ok(vec![self.take("first token of 32", "s", once).await?])
    }

    /// Tokens/s of `tokens` tokens after contexts of these lengths, as far as the model's context goes.
    pub async fn decode(&self, tokens: usize, contexts: &[usize]) -> Result<Vec<Figure>> {
        let mut decoder = self.engine.decoder(None)?;
        let mut figures = Vec::new();
        for &length in contexts.iter().filter(|&&length| self.fits(length, tokens)) {
            let ids = self.text(length, 0, tokens)?;
            decoder.prefill(&ids)?;
            let once = async || {
                decoder.truncate(length);
                // What is next after the prompt.
                decoder.prefill(&ids)?;
                decoder.pick().await?;
                let began = (self.clock)();
                let mut left = tokens;
                while left > 0 {
                    left -= decoder.extend(left.min(TOGETHER)).await?.len();
                }
                Ok(tokens as f64 / ((self.clock)() - began))
            };
            let name = format!("decode {tokens} tokens after {length}");
            figures.push(self.take(name, "tokens/s", once).await?);
        }
        Ok(figures)
    }

    /// What a decoded token costs the host; none on an engine that records nothing.
    pub async fn host(&self) -> Result<Vec<Figure>> {
        let mut decoder = self.engine.decoder(None)?;
        let (Some(dispatches), Some(_)) = (decoder.dispatches_per_token(), Counts::of(self.engine))
        else {
            return Ok(Vec::new());
        };
        let ids = self.text(32, 0, TOGETHER)?;
        decoder.prefill(&ids)?;
        decoder.pick().await?;
        let mut figures = vec![Figure::counted("dispatches per token", "", dispatches as f64)];
        let before = Counts::of(self.engine);
        decoder.extend(TOGETHER).await?;
        if let (Some(before), Some(now)) = (before, Counts::of(self.engine)) {
            figures.extend(now.figures(before, TOGETHER, "token"));
        }
        let once = async || {
            decoder.truncate(ids.len());
            self.drain().await?;
            let seconds = decoder.encoding_seconds(TOGETHER, self.clock)?.unwrap_or_default();
            self.drain().await?;
            Ok(seconds * 1e6 / TOGETHER as f64)
        };
        figures.push(self.take("host encoding per token", "µs", once).await?);
        figures.push(self.switch().await?);
        Ok(figures)
    }
}
