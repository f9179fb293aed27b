//! How fast a model is on a device: the figures of `engram bench`, the same in a page.

mod decode;
mod evaluate;
mod figure;
mod inferena;
mod kernels;
mod scaling;
mod train;

pub use figure::{Counts, Figure};
pub use kernels::Profiled;

use crate::Result;
use crate::generate::Engine;

/// Measures one engine.
pub struct Bench<'a> {
    /// What is measured.
    pub engine: &'a Engine,
    /// Each figure is taken once for nothing and so often to count.
    pub runs: u32,
    /// Seconds from any fixed start.
    pub clock: &'a dyn Fn() -> f64,
    /// Called before each run with what is measured; an error of its own ends the measuring.
    pub proceed: &'a dyn Fn(&str) -> Result<()>,
}

impl Bench<'_> {
    /// A figure that `once` takes. The first one does not count, so that what is done once, such as
    /// compiling shaders, is not in it.
    async fn take(
        &self,
        name: impl Into<String>,
        unit: &'static str,
        mut once: impl AsyncFnMut() -> Result<f64>,
    ) -> Result<Figure> {
        let name = name.into();
        let mut values = Vec::new();
        for run in 0..=self.runs {
            (self.proceed)(&name)?;
            let value = once().await?;
            if run > 0 {
                values.push(value);
            }
        }
        Ok(Figure { name, unit, values })
    }

    /// Whether the model's context has room for so many tokens and `more`.
    fn fits(&self, tokens: usize, more: usize) -> bool {
        tokens.saturating_add(more) <= self.engine.config().max_position_embeddings
    }

    /// Some tokens of the vocabulary, no two texts beginning alike.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`](crate::Error::ContextOverflow) with what is to follow.
    fn text(&self, length: usize, salt: usize, more: usize) -> Result<Vec<u32>> {
        let config = self.engine.config();
        let (vocab, limit) = (config.vocab_size, config.max_position_embeddings);
        let needed = length.saturating_add(more);
        if needed > limit {
            return Err(crate::Error::ContextOverflow { needed, limit });
        }
        Ok((0..length).map(|i| ((i * 7919 + salt * 104_729 + 11) % vocab) as u32).collect())
    }

    /// Waits until the device has nothing left to do.
    async fn drain(&self) -> Result<()> {
        match self.engine.model() {
            crate::generate::Model::Gpu(gpu) => gpu.context.drain().await,
            #[cfg(feature = "burn")]
            crate::generate::Model::Burn(_) => Ok(()),
        }
    }
}
