//! Packed batches of token sequences.
//!
//! The sequences of a batch stand one after the other in one row of tokens, without padding: each
//! token knows where its own sequence begins, and attention looks no further back. Nothing is
//! computed for a token whose prediction has no loss, except as a key and value of later ones.

use serde::{Deserialize, Serialize};

use super::token::{Target, Token};
use super::tokens::Example;
use crate::{Error, Result};

/// A packed batch: `tokens` and `targets` have one entry a row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// What goes in.
    pub tokens: Vec<Token>,
    /// What should come out. The weights sum to 1: the loss is the mean over trained rows.
    pub targets: Vec<Target>,
    /// How many sequences.
    pub sequences: usize,
    /// How many rows carry loss. Weighs this batch against others.
    pub trained: usize,
}

impl Batch {
    /// Sets the weight of each trained row to `1 / total`. With the trained rows of all micro
    /// batches of a step as `total`, accumulated gradients are those of the one large batch.
    pub fn set_total(&mut self, total: usize) {
        let weight = 1.0 / total as f32;
        for target in self.targets.iter_mut().filter(|target| target.weight > 0.0) {
            target.weight = weight;
        }
    }
}

/// Whose rules make the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Semantics {
    /// Ours. Targets are the next tokens of the same sequence, nothing else. All examples are
    /// shuffled each epoch and all are used, the last ones in a smaller batch. Validation takes
    /// them in file order. Examples without a trained token are left out.
    #[default]
    Engram,
    /// MLX-LM's, loss for loss. Groups of `batch_size` in file order, the remainder dropped; the
    /// order of the groups is numpy's permutation from the seed, and validation draws from the
    /// same generator. Rows are padded to `1 + 32·⌈longest / 32⌉`, at most `max_seq_length`, with
    /// id 0, and the mask `prompt_len ≤ step ≤ length` counts one such pad as the target of each
    /// sequence's last token. That pad target is all that padding adds, since attention is
    /// causal; it is kept here and the padded rows are not.
    ///
    /// MLX-LM sorts records by their number of keys first, which leaves the order of a file of
    /// like records. We never sort.
    Mlx,
}

/// How to make batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchConfig {
    /// Whose rules.
    pub semantics: Semantics,
    /// Sequences a batch.
    pub batch_size: usize,
    /// Most tokens of a sequence; the rest is cut off.
    pub max_seq_length: usize,
    /// Seed of the order. At most 2³² − 1 with [`Semantics::Mlx`], as numpy's.
    pub seed: u64,
}

/// Examples from which batches are made.
#[derive(Debug, Clone)]
pub struct BatchSet {
    examples: Vec<Example>,
    config: BatchConfig,
    truncated: usize,
    left_out: usize,
}

impl BatchSet {
    /// Checks that batches can be made of the examples.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a batch size of 0, a `max_seq_length` under 2, examples of which
    /// none has a trained token, a batch too large for 32-bit rows; with [`Semantics::Mlx`] also
    /// for fewer examples than one batch, a group without a trained token (MLX-LM's loss would be
    /// 0/0 there) and a seed that numpy refuses.
    pub fn new(examples: Vec<Example>, config: BatchConfig) -> Result<Self> {
        let BatchConfig { semantics, batch_size, max_seq_length, seed } = config;
        if batch_size == 0 {
            return Err(Error::invalid("batch size is 0; it is at least 1"));
        }
        if max_seq_length < 2 {
            return Err(Error::invalid(format!(
                "max_seq_length is {max_seq_length}; it is at least 2"
            )));
        }
        let is_cut = |e: &&Example| e.sequences().any(|e| e.ids.len() > max_seq_length);
        let truncated = examples.iter().filter(is_cut).count();
        let lengths = examples.iter().flat_map(Example::sequences).map(|e| e.ids.len());
        let longest = lengths.max().unwrap_or(0).min(max_seq_length);
        // A pair has two.
        let most = examples.iter().map(|e| e.sequences().count()).max().unwrap_or(1);
        let rows = longest.saturating_mul(most).checked_mul(batch_size.min(examples.len()));
        if rows.is_none_or(|rows| u32::try_from(rows).is_err())
            || u32::try_from(examples.len()).is_err()
        {
            return Err(Error::invalid(format!(
                "{batch_size} sequences of {longest} tokens are too many for a batch; lower the batch size"
            )));
        }
        let mut set = Self { examples, config, truncated, left_out: 0 };
        match semantics {
            Semantics::Engram => {
                let before = set.examples.len();
                set.examples.retain(|e| e.sequences().all(|e| e.trained(max_seq_length) > 0));
                set.left_out = before - set.examples.len();
                if set.examples.is_empty() {
                    return Err(Error::invalid(format!(
                        "none of {before} examples has a token to train on within {max_seq_length} \
                         tokens; raise max_seq_length or train on prompts too"
                    )));
                }
            }
            Semantics::Mlx => {
                set.check_size()?;
                if u32::try_from(seed).is_err() {
                    return Err(Error::invalid(format!(
                        "seed {seed} is above {}, which MLX-LM's order can't use",
                        u32::MAX
                    )));
                }
                let order: Vec<u32> = (0..set.examples.len() as u32).collect();
                let untrained =
                    order.chunks_exact(batch_size).position(|g| set.pack(g).trained == 0);
                if let Some(group) = untrained {
                    return Err(Error::invalid(format!(
                        "examples {}–{} have no token to train on within {max_seq_length} tokens; \
                         raise max_seq_length or train on prompts too",
                        group * batch_size + 1,
                        (group + 1) * batch_size
                    )));
                }
            }
        }
        Ok(set)
    }

    /// Fails where one batch is more than all examples.
    pub(super) fn check_size(&self) -> Result<()> {
        let (size, count) = (self.config.batch_size, self.examples.len());
        if size > count {
            return Err(Error::invalid(format!(
                "batch size {size} is larger than the data set of {count} usable examples"
            )));
        }
        Ok(())
    }

    /// Tokens of the longest sequence, once cut to `max_seq_length`.
    pub fn longest(&self) -> usize {
        let sequences = self.examples.iter().flat_map(Example::sequences);
        sequences.map(|e| e.ids.len().min(self.config.max_seq_length)).max().unwrap_or(0)
    }

    /// Most tokens that a batch of this set can have.
    pub fn most_tokens(&self) -> usize {
        let mut lengths: Vec<usize> = self.lengths().collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.iter().take(self.config.batch_size).sum()
    }

    fn lengths(&self) -> impl Iterator<Item = usize> {
        let most = self.config.max_seq_length;
        let length = move |example: &Example| example.ids.len().min(most);
        self.examples.iter().map(move |example| example.sequences().map(length).sum())
    }

    /// How the batches are made.
    pub fn config(&self) -> &BatchConfig {
        &self.config
    }

    /// The usable examples.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// How many examples are longer than `max_seq_length` and cut there. Report it.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// How many examples were left out because no token of theirs carries loss. Report it.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Batches an epoch (a pass over all examples).
    pub fn batches(&self) -> usize {
        match self.config.semantics {
            Semantics::Engram => self.examples.len().div_ceil(self.config.batch_size),
            Semantics::Mlx => self.examples.len() / self.config.batch_size,
        }
    }

    /// Packs the examples with these indices. An index beyond the end is skipped.
    pub fn pack(&self, indices: &[u32]) -> Batch {
        let examples = || indices.iter().filter_map(|&i| self.examples.get(i as usize));
        let max = self.config.max_seq_length;
        let mut batch = Batch::default();
        match self.config.semantics {
            Semantics::Engram => {
                for example in examples().flat_map(Example::sequences) {
                    // The last token has nothing to predict.
                    let inputs = example.ids.len().min(max).saturating_sub(1);
                    batch.push(example, inputs, max);
                }
            }
            Semantics::Mlx => {
                let longest = examples().map(|e| e.ids.len()).max().unwrap_or(0);
                let width = longest.div_ceil(32).saturating_mul(32).saturating_add(1).min(max);
                for example in examples() {
                    let inputs = example.ids.len().min(width - 1);
                    batch.push(example, inputs, max);
                }
            }
        }
        batch.set_total(batch.trained);
        batch
    }
}

impl Batch {
    /// Appends the first `inputs` tokens of an example; what follows the last token, or the cut at
    /// `max`, is id 0.
    fn push(&mut self, example: &Example, inputs: usize, max: usize) {
        let first_key = self.tokens.len() as u32;
        let ids = &example.ids[..example.ids.len().min(max)];
        for (position, &id) in ids.iter().take(inputs).enumerate() {
            let last_key = first_key + position as u32;
            self.tokens.push(Token { id, position: position as u32, first_key, last_key });
            let step = position + 1;
            let trained = example.has_loss(step);
            let id = ids.get(step).copied().unwrap_or(0);
            self.targets.push(Target { id, weight: f32::from(u8::from(trained)) });
            self.trained += usize::from(trained);
        }
        self.sequences += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn set(semantics: Semantics, examples: &[(&[u32], usize)], max: usize) -> Result<BatchSet> {
        let examples =
            examples.iter().map(|&(ids, prompt_len)| Example::new(ids.to_vec(), prompt_len));
        let config = BatchConfig { semantics, batch_size: 2, max_seq_length: max, seed: 0 };
        BatchSet::new(examples.collect(), config)
    }

    #[test]
    fn a_pair_is_two_sequences_of_one_example() {
        let rejected = Some(Box::new(Example::new(vec![1, 2, 9, 9], 2)));
        let pair = Example { rejected, ..Example::new(vec![1, 2, 3], 2) };
        let config = BatchConfig {
            semantics: Semantics::Engram,
            batch_size: 1,
            max_seq_length: 100,
            seed: 0,
        };
        let set = BatchSet::new(vec![pair.clone(), pair], config).unwrap();
        assert_eq!((set.batches(), set.longest(), set.most_tokens()), (2, 4, 7));
        let batch = set.pack(&[1]);
        let ids: Vec<u32> = batch.tokens.iter().map(|token| token.id).collect();
        assert_eq!((ids, batch.sequences, batch.trained), (vec![1, 2, 1, 2, 9], 2, 3));
        assert_eq!(batch.tokens[2].first_key, 2);
    }

    #[test]
    fn engram_packs_next_token_targets_only() {
        let set = set(Semantics::Engram, &[(&[5, 6, 7], 0), (&[8, 9, 10, 11], 2)], 100).unwrap();
        let batch = set.pack(&[1, 0]);
        let token = |id, position, first_key, last_key| Token { id, position, first_key, last_key };
        assert_eq!(
            batch.tokens,
            [
                token(8, 0, 0, 0),
                token(9, 1, 0, 1),
                token(10, 2, 0, 2),
                token(5, 0, 3, 3),
                token(6, 1, 3, 4)
            ]
        );
        let targets: Vec<_> = batch.targets.iter().map(|t| (t.id, t.weight)).collect();
        assert_eq!(targets, [(9, 0.0), (10, 0.25), (11, 0.25), (6, 0.25), (7, 0.25)]);
        assert_eq!((batch.sequences, batch.trained), (2, 4));
    }

    #[test]
    fn mlx_adds_one_pad_target_a_sequence_where_the_width_allows() {
        let ids: Vec<u32> = (1..=10).collect();
        let examples: [(&[u32], usize); 2] = [(&ids, 0), (&ids[..3], 2)];
        let batch = set(Semantics::Mlx, &examples, 100).unwrap().pack(&[0, 1]);
        assert_eq!(batch.tokens.len(), 13);
        assert_eq!(batch.targets[9].id, 0);
        assert_eq!(batch.targets[12].id, 0);
        assert_eq!(batch.trained, 10 + 2);
        // Cut at 10: the first sequence fills the width, so that its last token is no input.
        let batch = set(Semantics::Mlx, &examples, 10).unwrap().pack(&[0, 1]);
        assert_eq!(batch.tokens.len(), 9 + 3);
        assert_eq!(batch.targets[8].id, 10);
    }

    #[test]
    fn weights_follow_a_given_total() {
        let mut batch = set(Semantics::Engram, &[(&[5, 6, 7], 2)], 100).unwrap().pack(&[0]);
        batch.set_total(8);
        assert_eq!(batch.targets[0].weight, 0.0);
        assert_eq!(batch.targets[1].weight, 0.125);
    }

    #[test]
    fn masked_ids_carry_no_loss_wherever_they_are() {
        let example = Example {
            ids: (1..=9).collect(),
            prompt_len: 2,
            masked: vec![4..6, 8..9],
            rejected: None,
        };
        for (semantics, expected) in [
            (Semantics::Engram, vec![0, 1, 1, 0, 0, 1, 1, 0]),
            // With the pad behind the last id.
            (Semantics::Mlx, vec![0, 1, 1, 0, 0, 1, 1, 0, 1]),
        ] {
            let config = BatchConfig { semantics, batch_size: 1, max_seq_length: 100, seed: 0 };
            let batch = BatchSet::new(vec![example.clone()], config).unwrap().pack(&[0]);
            let weights: Vec<u8> =
                batch.targets.iter().map(|target| u8::from(target.weight > 0.0)).collect();
            assert_eq!(weights, expected);
            assert_eq!(batch.trained, expected.iter().filter(|&&weight| weight == 1).count());
        }
        // Cut where nothing with loss is left, it is left out.
        let example = Example { prompt_len: 0, masked: vec![0..3, 3..5], ..example };
        let config =
            BatchConfig { semantics: Semantics::Engram, batch_size: 1, max_seq_length: 5, seed: 0 };
        assert!(BatchSet::new(vec![example], config).is_err());
    }

    #[test]
    fn long_and_untrained_examples_are_counted() {
        let examples: [(&[u32], usize); 3] = [(&[1, 2, 3, 4], 0), (&[1, 2], 2), (&[7], 0)];
        let set = set(Semantics::Engram, &examples, 3).unwrap();
        assert_eq!((set.truncated(), set.left_out(), set.examples().len()), (1, 2, 1));
        assert_eq!(set.pack(&[0]).targets.last().map(|t| t.id), Some(3));
    }

    #[test]
    fn what_can_not_be_batched_is_refused() {
        let message = |set: Result<BatchSet>| set.unwrap_err().to_string();
        let masked: [(&[u32], usize); 2] = [(&[1, 2, 3], 9), (&[1, 2], 9)];
        let error = message(set(Semantics::Engram, &masked, 100));
        assert!(error.starts_with("none of 2 examples has a token to train on"), "{error}");
        let error = message(set(Semantics::Mlx, &masked, 100));
        assert!(error.starts_with("examples 1–2 have no token to train on"), "{error}");
        let error = message(set(Semantics::Mlx, &masked[..1], 100));
        assert_eq!(error, "batch size 2 is larger than the data set of 1 usable examples");
        assert!(message(set(Semantics::Engram, &masked, 1)).starts_with("max_seq_length is 1"));
        let config = |batch_size, seed| BatchConfig {
            semantics: Semantics::Mlx,
            batch_size,
            max_seq_length: 9,
            seed,
        };
        let one = vec![Example::new(vec![1, 2], 0)];
        assert!(message(BatchSet::new(one.clone(), config(0, 0))).starts_with("batch size is 0"));
        assert!(message(BatchSet::new(one, config(1, 1 << 32))).starts_with("seed 4294967296"));
    }
}
