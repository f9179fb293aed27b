//! Direct preference optimisation (Rafailov et al., 2023), TRL's `DPOTrainer` with the loss `sigmoid`.
//!
//! Of a pair the loss is −log σ(β Δ) with Δ = (log π(chosen) − log π₀(chosen)) − (log π(rejected) −
//! log π₀(rejected)), where π₀ is the model as it was. Its gradient is that of the answers'
//! cross-entropies, the chosen one's times β σ(−β Δ), the rejected one's times minus that: once Δ is
//! known, a step is one of weighted targets, which every learner can.

use crate::data::batch::Batch;
use crate::{Error, Result};

/// How pairs are told apart, over some of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Preference {
    /// Pairs.
    pub pairs: usize,
    /// Their losses, added up.
    pub loss: f64,
    /// Pairs of which the chosen answer has the larger reward; TRL's `rewards/accuracies` times pairs.
    pub correct: usize,
    /// The rewards of the chosen answers less those of the rejected, β Δ, added up; TRL's
    /// `rewards/margins` times pairs.
    pub margin: f64,
}

impl Preference {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            pairs: self.pairs + other.pairs,
            loss: self.loss + other.loss,
            correct: self.correct + other.correct,
            margin: self.margin + other.margin,
        }
    }
}

/// Weighs the targets of `batch`, whose sequences are pairs of a chosen and a rejected one, so that the
/// gradient of their weighted losses is that of the pairs' losses, added up.
///
/// `losses` and `reference` have the cross-entropy of each token that counts, with what is trained and
/// without; the others' are 0.
///
/// # Errors
/// Sequences that are no pairs; losses of other tokens.
pub(super) fn weigh(
    batch: &mut Batch,
    losses: &[f32],
    reference: &[f32],
    beta: f32,
) -> Result<Preference> {
    let tokens = batch.tokens.len();
    if losses.len() != tokens || reference.len() != tokens || !batch.sequences.is_multiple_of(2) {
        return Err(Error::invalid("the batch is not of pairs; its examples have no `rejected`"));
    }
    let starts = (0..tokens).filter(|&at| batch.tokens[at].position == 0);
    let mut bounds: Vec<usize> = starts.collect();
    bounds.push(tokens);
    let beta = f64::from(beta);
    // log π − log π₀ of an answer.
    let gain = |from: usize, to: usize| -> f64 {
        let pairs = losses[from..to].iter().zip(&reference[from..to]);
        pairs.map(|(&loss, &before)| f64::from(before) - f64::from(loss)).sum()
    };
    let mut found = Preference::default();
    for pair in bounds.windows(3).step_by(2) {
        let &[chosen, rejected, end] = pair else { continue };
        let margin = beta * (gain(chosen, rejected) - gain(rejected, end));
        // −log σ(x) = log(1 + e⁻ˣ), without overflow.
        let loss = (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
        let slope = beta / (1.0 + margin.exp());
        for (at, target) in batch.targets[chosen..end].iter_mut().enumerate() {
            let sign = if chosen + at < rejected { 1.0 } else { -1.0 };
            target.weight *= (sign * slope) as f32;
        }
        found =
            found.and(Preference { pairs: 1, loss, correct: usize::from(margin > 0.0), margin });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::token::{Target, Token};
    use crate::testing::test;

    /// Two pairs, whose sequences have 2, 1, 1 and 2 tokens.
    fn batch() -> Batch {
        let positions = [0, 1, 0, 0, 0, 1];
        let token = |position| Token { position, ..Default::default() };
        let weights = [0.0, 1.0, 1.0, 1.0, 0.0, 1.0];
        Batch {
            tokens: positions.map(token).into(),
            targets: weights.map(|weight| Target { id: 0, weight }).into(),
            sequences: 4,
            trained: 4,
        }
    }

    #[test]
    fn weights_are_the_slopes_of_the_loss() {
        let reference = [0.0, 2.0, 3.0, 1.0, 0.0, 1.5];
        let losses = [0.0, 1.5, 3.5, 1.25, 0.0, 1.0];
        let mut weighed = batch();
        let found = weigh(&mut weighed, &losses, &reference, 0.5).unwrap();
        assert_eq!((found.pairs, found.correct), (2, 1));
        let loss = |losses: &[f32]| weigh(&mut batch(), losses, &reference, 0.5).unwrap().loss;
        for at in 0..losses.len() {
            let (mut low, mut high) = (losses, losses);
            low[at] -= 1e-2;
            high[at] += 1e-2;
            let counts = f64::from(batch().targets[at].weight);
            let slope = counts * (loss(&high) - loss(&low)) / f64::from(high[at] - low[at]);
            let weight = f64::from(weighed.targets[at].weight);
            assert!((slope - weight).abs() < 1e-4, "{at}: {slope}, weighed {weight}");
        }
    }

    #[test]
    fn far_apart_answers_give_finite_losses() {
        let far = [0.0, 1e4, 0.0, 0.0, 0.0, 1e4];
        let found = weigh(&mut batch(), &far, &[0.0; 6], 1.0).unwrap();
        assert_eq!(found.loss, 1e4);
        assert!(weigh(&mut batch(), &far[1..], &[0.0; 6], 1.0).is_err());
    }
}
