//! How likely a model finds given tokens.

use super::forward::Forward;
use super::model::{LoadedAdapter, Model};
use crate::data::batch::Batch;
use crate::{Error, Result};

/// A model, with or without an adapter, that says how likely it finds sequences of up to
/// [`Self::capacity`] tokens.
#[derive(Debug)]
pub struct Likelihood {
    forward: Forward,
    vocab_size: usize,
}

impl Likelihood {
    /// Prepares for up to `capacity` tokens.
    ///
    /// # Errors
    /// As [`Forward::new`].
    pub fn new(model: &Model, adapter: Option<&LoadedAdapter>, capacity: usize) -> Result<Self> {
        let vocab_size = model.config().vocab_size;
        Ok(Self { forward: Forward::new(model, adapter, capacity)?, vocab_size })
    }

    /// The longest sequence, the last token, which nothing follows, not counted.
    pub fn capacity(&self) -> usize {
        self.forward.capacity()
    }

    /// The negative log-likelihood, in nats, of each of `ids[from..]` given all tokens before it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `from` is 0, as nothing comes before the first token, or an id is not
    /// in the vocabulary; [`Error::ContextOverflow`] beyond [`Self::capacity`].
    pub async fn nll(&mut self, ids: &[u32], from: usize) -> Result<Vec<f64>> {
        if from == 0 {
            return Err(Error::invalid("the first token of a text has no likelihood"));
        }
        let vocab = self.vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::invalid(format!("token {id} is not in the vocabulary of {vocab}")));
        }
        if from >= ids.len() {
            return Ok(Vec::new());
        }
        self.forward.run(&ids[..ids.len() - 1])?;
        let mut nll = Vec::with_capacity(ids.len() - from);
        let most = Forward::MOST_ROWS;
        // The row before a token predicts it.
        for (first, targets) in (from - 1..).step_by(most).zip(ids[from..].chunks(most)) {
            let logits = self.forward.logits(first, targets.len()).await?;
            let rows = logits.chunks_exact(vocab).zip(targets);
            nll.extend(rows.map(|(row, &id)| log_sum_exp(row) - f64::from(row[id as usize])));
        }
        Ok(nll)
    }

    /// The losses of a batch's trained tokens added up, nats, each times its target's weight.
    ///
    /// # Errors
    /// As [`Self::nll`].
    pub async fn batch(&mut self, batch: &Batch) -> Result<f64> {
        let rows: Vec<_> = batch.tokens.iter().zip(&batch.targets).collect();
        let mut sum = 0.0;
        for sequence in rows.chunk_by(|_, (next, _)| next.position > 0) {
            let Some(first) = sequence.iter().position(|(_, target)| target.weight > 0.0) else {
                continue;
            };
            // Each target is the token that comes next.
            let last = sequence.last().map(|(_, target)| target.id);
            let ids: Vec<u32> = sequence.iter().map(|(token, _)| token.id).chain(last).collect();
            let nll = self.nll(&ids, first + 1).await?;
            let targets = sequence[first..].iter().map(|(_, target)| f64::from(target.weight));
            sum += nll.iter().zip(targets).map(|(nll, weight)| nll * weight).sum::<f64>();
        }
        Ok(sum)
    }
}

/// `ln Σ exp(x)`, in f64; NaN if any of them is.
fn log_sum_exp(row: &[f32]) -> f64 {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}
