//! How time grows with what there is to do.

use super::{Bench, Figure};
use crate::Result;

/// Tokens decoded after each context.
const TOKENS: usize = 8;
/// Nothing larger is tried after a prompt or a training step that took longer.
const PATIENCE_SECONDS: f64 = 40.0;

impl Bench<'_> {
    /// Milliseconds a token after 128 to 8192 tokens; seconds and peak memory of a training step on
    /// one text of 64 to 2048 tokens and on 1 to 16 texts of 64. As far as the model's context and the
    /// device's speed allow.
    pub async fn scaling(&self) -> Result<Vec<Figure>> {
        let mut figures = self.contexts().await?;
        for (what, sizes) in [
            ("lengths", [64, 128, 256, 512, 1024, 2048].map(|length| (1, length)).to_vec()),
            ("batches", [2, 4, 8, 16].map(|batch| (batch, 64)).to_vec()),
        ] {
            tracing::info!("training steps of several {what}");
            for (batch, length) in sizes {
                let step = self.train_on(batch, length).await?;
                let seconds = step.first().map_or(0.0, Figure::median);
                figures.extend(step.into_iter().take(3));
                if seconds > PATIENCE_SECONDS {
                    break;
                }
            }
        }
        Ok(figures)
    }

    async fn contexts(&self) -> Result<Vec<Figure>> {
        let limit = self.engine.config().max_position_embeddings - TOKENS;
        let mut decoder = self.engine.decoder(None)?;
        let mut figures = Vec::new();
        for length in [128, 256, 512, 1024, 2048, 4096, 8192] {
            let length = length.min(limit);
            // It begins with the last one, which is in the cache.
            let ids = self.text(length, 0, TOKENS)?;
            let began = (self.clock)();
            decoder.prefill(&ids)?;
            decoder.pick().await?;
            let seconds = (self.clock)() - began;
            let once = async || {
                decoder.truncate(length);
                decoder.prefill(&ids)?;
                decoder.pick().await?;
                let began = (self.clock)();
                decoder.extend(TOKENS).await?;
                Ok(((self.clock)() - began) * 1e3 / TOKENS as f64)
            };
            figures.push(self.take(format!("a token after {length}"), "ms", once).await?);
            if length == limit || seconds > PATIENCE_SECONDS {
                break;
            }
        }
        Ok(figures)
    }
}
