//! The logits of every position of a text at once, for comparisons.

use super::decoder::check_ids;
use super::{Engine, Forward, LoadedAdapter};
use crate::{Error, Result};

impl Engine {
    /// The logits (T, vocab_size), row-major, of what follows each of the T tokens of `ids`, in one
    /// pass without a cache.
    ///
    /// # Errors
    /// No ids, one that is not in the vocabulary, more than the model's context, or too little
    /// memory.
    pub async fn logits_all(
        &self,
        ids: &[u32],
        adapter: Option<&LoadedAdapter>,
    ) -> Result<Vec<f32>> {
        check_ids(self.config(), ids)?;
        let mut forward = Forward::new(self.model(), adapter, ids.len())?;
        let mut all: Vec<f32> = Vec::new();
        all.try_reserve_exact(ids.len().saturating_mul(self.config().vocab_size)).map_err(
            |_| Error::invalid(format!("the logits of {} tokens do not fit the memory", ids.len())),
        )?;
        forward.run(ids)?;
        for first in (0..ids.len()).step_by(Forward::MOST_ROWS) {
            let count = Forward::MOST_ROWS.min(ids.len() - first);
            all.extend(forward.logits(first, count).await?);
        }
        Ok(all)
    }
}
