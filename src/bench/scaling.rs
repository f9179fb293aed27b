//! How time grows with what there is to do.

use super::{Bench, Figure};
use crate::Result;

impl Bench<'_> {
    /// Milliseconds a token after 128 to 8192 tokens, seconds a training step on one text of 64 to
    /// 2048 tokens and on 1 to 16 texts of 64, as far as the model's context allows.
    pub async fn scaling(&self) -> Result<Vec<Figure>> {
        const TOKENS: usize = 8;
        let limit = self.engine.config().max_position_embeddings;
        let mut figures = Vec::new();
        for length in [128, 256, 512, 1024, 2048, 4096, 8192] {
            let length = length.min(limit - TOKENS);
            for rate in self.decode(TOKENS, &[length]).await? {
                let values = rate.values.iter().map(|rate| 1e3 / rate).collect();
                figures.push(Figure {
                    name: format!("a token after {length}"),
                    unit: "ms",
                    values,
                });
            }
            if length == limit - TOKENS {
                break;
            }
        }
        let lengths = [64, 128, 256, 512, 1024, 2048].map(|length| (1, length));
        let batches = [1, 2, 4, 8, 16].map(|batch| (batch, 64));
        for (batch, length) in lengths.into_iter().chain(batches) {
            if length < limit {
                figures.extend(self.train_on(batch, length).await?.into_iter().take(3));
            }
        }
        Ok(figures)
    }
}
