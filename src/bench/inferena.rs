//! The protocol of inferena, by which frameworks compare one another: SmolLM2-135M in f32, token ids
//! 0 … 127.

use super::{Bench, Figure};
use crate::Result;
use crate::generate::{Forward, Likelihood};

/// Tokens of the text.
const TOKENS: u32 = 128;

impl Bench<'_> {
    /// Milliseconds of a forward pass over the text with the logits of every token, read back, and of
    /// one token alone; the mean loss of the text's next tokens.
    pub async fn inferena(&self) -> Result<Vec<Figure>> {
        let ids: Vec<u32> = (0..TOKENS).collect();
        let mut forward = Forward::new(self.engine.model(), None, ids.len())?;
        let once = async || {
            let began = (self.clock)();
            forward.run(&ids)?;
            for first in (0..ids.len()).step_by(Forward::MOST_ROWS) {
                let rows = Forward::MOST_ROWS.min(ids.len() - first);
                forward.logits(first, rows).await?;
            }
            Ok(((self.clock)() - began) * 1e3)
        };
        let mut figures = vec![self.take("inferena forward", "ms", once).await?];
        drop(forward);

        let mut decoder = self.engine.decoder(None)?;
        let once = async || {
            decoder.truncate(0);
            let began = (self.clock)();
            decoder.advance(0)?;
            decoder.pick().await?;
            Ok(((self.clock)() - began) * 1e3)
        };
        figures.push(self.take("inferena one token", "ms", once).await?);

        let mut likelihood = Likelihood::new(self.engine.model(), None, ids.len())?;
        let nll = likelihood.nll(&ids, 1).await?;
        let loss = nll.iter().sum::<f64>() / nll.len() as f64;
        figures.push(Figure::counted("inferena loss", "nats", loss));
        Ok(figures)
    }
}
