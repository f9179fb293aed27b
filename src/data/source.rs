//! Batches in the order of training, with a state that a checkpoint saves.

use serde::{Deserialize, Serialize};

use super::batch::{Batch, BatchSet, Semantics};
use super::random::{Mt19937, Random, SplitMix64};
use crate::{Error, Result};

/// The generator that orders come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Engram(SplitMix64),
    Mlx(Mt19937),
}

impl Order {
    fn permutation(&mut self, n: u32) -> Vec<u32> {
        match self {
            Order::Engram(rng) => rng.permutation(n),
            Order::Mlx(rng) => rng.permutation(n),
        }
    }
}

/// The generator of a run of this set.
fn order_of(set: &BatchSet) -> Order {
    let seed = set.config().seed;
    match set.config().semantics {
        Semantics::Engram => Order::Engram(SplitMix64::new(seed)),
        // `BatchSet::new` refused a longer seed.
        Semantics::Mlx => Order::Mlx(Mt19937::new(seed as u32)),
    }
}

/// At most `limit` batches of `set`, MLX's in an order that `rng` gives.
fn held_out<'a>(
    rng: &mut Order,
    set: &'a BatchSet,
    limit: Option<usize>,
) -> impl ExactSizeIterator<Item = Batch> + use<'a> {
    let count = set.batches().min(limit.unwrap_or(usize::MAX));
    let order = match set.config().semantics {
        Semantics::Mlx if count > 0 => rng.permutation(set.batches() as u32),
        _ => (0..set.examples().len() as u32).collect(),
    };
    (0..count).map(move |index| pack(set, &order, index))
}

/// At most `limit` batches of a set whose loss is asked for without a training; MLX-LM's choice of
/// them with [`Semantics::Mlx`].
pub fn test_batches(
    set: &BatchSet,
    limit: Option<usize>,
) -> impl ExactSizeIterator<Item = Batch> + use<'_> {
    held_out(&mut order_of(set), set, limit)
}

/// Where a [`BatchSource`] is. Save it as JSON with a checkpoint; [`BatchSource::resume`] goes on
/// from it with the same batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Epochs begun. 0 before the first batch.
    pub epoch: usize,
    /// Batches dealt out in this epoch.
    pub index: usize,
    /// This epoch's order, of examples (Engram) or of groups (MLX).
    order: Vec<u32>,
    /// Makes the next epoch's order.
    rng: Order,
    /// Examples and tokens of the data set, to notice another one.
    examples: usize,
    tokens: usize,
}

/// Deals out training batches without end, epoch after epoch.
#[derive(Debug, Clone)]
pub struct BatchSource {
    set: BatchSet,
    state: SourceState,
}

impl BatchSource {
    /// Starts at the first epoch.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the data set has fewer usable examples than one batch.
    pub fn new(set: BatchSet) -> Result<Self> {
        set.check_size()?;
        let rng = order_of(&set);
        let (examples, tokens) = size(&set);
        let state = SourceState { epoch: 0, index: 0, order: Vec::new(), rng, examples, tokens };
        Ok(Self { set, state })
    }

    /// Goes on from a saved state with the same data set.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the state is of another data set, batch size or semantics.
    pub fn resume(set: BatchSet, state: SourceState) -> Result<Self> {
        let fresh = Self::new(set)?;
        let same_rng =
            std::mem::discriminant(&fresh.state.rng) == std::mem::discriminant(&state.rng);
        let mut sorted = state.order.clone();
        sorted.sort_unstable();
        let ordered = if state.epoch == 0 {
            sorted.is_empty() && state.index == 0
        } else {
            sorted.iter().copied().eq(0..fresh.order_len()) && state.index <= fresh.set.batches()
        };
        let same_data = (state.examples, state.tokens) == size(&fresh.set);
        if !(same_rng && ordered && same_data) {
            return Err(Error::invalid(
                "the saved data order is of another data set, batch size or semantics; resume with \
                 the ones it was saved with",
            ));
        }
        Ok(Self { set: fresh.set, state })
    }

    /// The examples.
    pub fn set(&self) -> &BatchSet {
        &self.set
    }

    /// Where it is, to be saved.
    pub fn state(&self) -> &SourceState {
        &self.state
    }

    /// The next batch; after the last of an epoch the next epoch's first.
    pub fn next_batch(&mut self) -> Batch {
        if self.state.epoch == 0 || self.state.index >= self.set.batches() {
            // MLX-LM, too, draws an epoch's order when its first batch is asked for, which decides
            // what validation in between draws.
            self.state.order = self.state.rng.permutation(self.order_len());
            self.state.epoch += 1;
            self.state.index = 0;
        }
        let batch = pack(&self.set, &self.state.order, self.state.index);
        self.state.index += 1;
        batch
    }

    /// The batches of one validation, at most `limit` of them. Weigh their losses by
    /// [`Batch::trained`].
    ///
    /// With [`Semantics::Mlx`] this draws their order from the generator of the training order, as
    /// MLX-LM's `evaluate` does: ask for the training batch of the iteration first.
    pub fn validation<'a>(
        &mut self,
        set: &'a BatchSet,
        limit: Option<usize>,
    ) -> impl ExactSizeIterator<Item = Batch> + use<'a> {
        held_out(&mut self.state.rng, set, limit)
    }

    /// Entries of an epoch's order.
    fn order_len(&self) -> u32 {
        let n = match self.set.config().semantics {
            Semantics::Engram => self.set.examples().len(),
            Semantics::Mlx => self.set.batches(),
        };
        n as u32
    }
}

/// Examples and tokens.
fn size(set: &BatchSet) -> (usize, usize) {
    let sequences = set.examples().iter().flat_map(|example| example.sequences());
    (set.examples().len(), sequences.map(|e| e.ids.len()).sum())
}

/// Batch `index` of an order: of examples (Engram), or of groups of neighbours (MLX).
fn pack(set: &BatchSet, order: &[u32], index: usize) -> Batch {
    let size = set.config().batch_size;
    match set.config().semantics {
        Semantics::Engram => set.pack(order.chunks(size).nth(index).unwrap_or_default()),
        Semantics::Mlx => {
            let group = order.get(index).copied().unwrap_or_default() as usize;
            let members: Vec<u32> = (group * size..(group + 1) * size).map(|i| i as u32).collect();
            set.pack(&members)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::BatchConfig;
    use crate::data::tokens::Example;
    use crate::testing::test;
    use serde_json::Value;

    const GOLDENS: &str = include_str!("../../data/goldens/batches.json");

    fn numbers(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    fn examples(value: &Value) -> Vec<Example> {
        let one = |row: &Value| {
            Example::new(numbers(&row["ids"]), row["offset"].as_u64().unwrap() as usize)
        };
        value.as_array().unwrap().iter().map(one).collect()
    }

    /// A golden batch lists, for each sequence, its steps up to the last one that counts.
    fn assert_batch(batch: &Batch, golden: &Value, what: &str) {
        let mut expected = Vec::new();
        let mut ends = Vec::new();
        for row in golden.as_array().unwrap() {
            let (inputs, targets, mask) =
                (numbers(&row["inputs"]), numbers(&row["targets"]), numbers(&row["mask"]));
            for step in 0..inputs.len() {
                expected.push((inputs[step], step as u32, targets[step], mask[step] == 1));
            }
            ends.push(expected.len());
        }
        let actual: Vec<_> = batch
            .tokens
            .iter()
            .zip(&batch.targets)
            .map(|(token, target)| (token.id, token.position, target.id, target.weight > 0.0))
            .collect();
        assert_eq!(actual, expected, "{what}");
        let trained = expected.iter().filter(|e| e.3).count();
        assert_eq!(batch.trained, trained, "{what}");
        let sum: f32 = batch.targets.iter().map(|t| t.weight).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{what}: weights sum to {sum}");
        for (row, token) in batch.tokens.iter().enumerate() {
            let first = ends.iter().rev().find(|&&end| end <= row).copied().unwrap_or(0);
            assert_eq!((token.first_key, token.last_key), (first as u32, row as u32), "{what}");
        }
    }

    #[test]
    fn mlx_batches_are_mlx_lms() {
        let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
        let cases = goldens["cases"].as_array().unwrap();
        assert!(cases.len() >= 3);
        for case in cases {
            let config = BatchConfig {
                semantics: Semantics::Mlx,
                batch_size: case["batch_size"].as_u64().unwrap() as usize,
                max_seq_length: case["max_seq_length"].as_u64().unwrap() as usize,
                seed: case["seed"].as_u64().unwrap(),
            };
            let train = BatchSet::new(examples(&goldens["train"]), config.clone()).unwrap();
            let valid = BatchSet::new(examples(&goldens["valid"]), config.clone()).unwrap();
            let mut source = BatchSource::new(train).unwrap();
            let limit = case["val_batches"].as_u64().map(|n| n as usize);
            for (i, event) in case["events"].as_array().unwrap().iter().enumerate() {
                let what = format!("{config:?}, event {i}");
                if let Some(batch) = event.get("train") {
                    assert_batch(&source.next_batch(), batch, &what);
                } else {
                    let golden = event["valid"].as_array().unwrap();
                    let batches: Vec<Batch> = source.validation(&valid, limit).collect();
                    assert_eq!(batches.len(), golden.len(), "{what}");
                    for (batch, golden) in batches.iter().zip(golden) {
                        assert_batch(batch, golden, &what);
                    }
                }
            }
            assert!(source.state().epoch >= 3);
        }
    }

    fn set(semantics: Semantics, count: u32, batch_size: usize) -> BatchSet {
        let examples = (0..count).map(|i| Example::new(vec![100 + i, 7, 8], 0)).collect();
        BatchSet::new(examples, BatchConfig { semantics, batch_size, max_seq_length: 64, seed: 3 })
            .unwrap()
    }

    fn firsts(batch: &Batch) -> Vec<u32> {
        batch.tokens.iter().filter(|t| t.position == 0).map(|t| t.id).collect()
    }

    #[test]
    fn engram_uses_every_example_once_an_epoch_in_a_new_order() {
        let mut source = BatchSource::new(set(Semantics::Engram, 11, 4)).unwrap();
        let mut epochs = Vec::new();
        for _ in 0..3 {
            let batches: Vec<Vec<u32>> = (0..3).map(|_| firsts(&source.next_batch())).collect();
            assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 3]);
            let order = batches.concat();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (100..111).collect::<Vec<_>>());
            epochs.push(order);
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    }

    #[test]
    fn engram_validation_is_in_file_order_and_leaves_training_alone() {
        let valid = set(Semantics::Engram, 5, 2);
        let mut source = BatchSource::new(set(Semantics::Engram, 11, 4)).unwrap();
        let mut other = source.clone();
        let all: Vec<Vec<u32>> = source.validation(&valid, None).map(|b| firsts(&b)).collect();
        assert_eq!(all, [vec![100, 101], vec![102, 103], vec![104]]);
        assert_eq!(source.validation(&valid, Some(2)).len(), 2);
        assert_eq!(source.next_batch(), other.next_batch());
        // A validation set smaller than a batch is one smaller batch.
        assert_eq!(source.validation(&set(Semantics::Engram, 2, 4), None).len(), 1);
    }

    #[test]
    fn a_saved_state_goes_on_with_the_same_batches() {
        for semantics in [Semantics::Engram, Semantics::Mlx] {
            for done in [0, 1, 2, 3, 7] {
                let mut source = BatchSource::new(set(semantics, 11, 4)).unwrap();
                let valid = set(semantics, 9, 4);
                for _ in 0..done {
                    source.next_batch();
                    source.validation(&valid, Some(1)).for_each(drop);
                }
                let saved = serde_json::to_string(source.state()).unwrap();
                let state = serde_json::from_str(&saved).unwrap();
                let mut resumed = BatchSource::resume(set(semantics, 11, 4), state).unwrap();
                for _ in 0..7 {
                    assert_eq!(resumed.next_batch(), source.next_batch());
                }
                assert_eq!(resumed.state(), source.state());
            }
        }
    }

    #[test]
    fn a_state_of_other_data_is_refused() {
        let mut source = BatchSource::new(set(Semantics::Engram, 11, 4)).unwrap();
        source.next_batch();
        let state = source.state();
        assert!(BatchSource::resume(set(Semantics::Engram, 12, 4), state.clone()).is_err());
        assert!(BatchSource::resume(set(Semantics::Mlx, 11, 4), state.clone()).is_err());
        let twice = SourceState { order: vec![0; 11], ..state.clone() };
        assert!(BatchSource::resume(set(Semantics::Engram, 11, 4), twice).is_err());
        let beyond = SourceState { index: 4, ..state.clone() };
        assert!(BatchSource::resume(set(Semantics::Engram, 11, 4), beyond).is_err());
    }

    #[test]
    fn a_batch_larger_than_the_data_is_refused() {
        let error = BatchSource::new(set(Semantics::Engram, 3, 4)).unwrap_err().to_string();
        assert_eq!(error, "batch size 4 is larger than the data set of 3 usable examples");
    }
}
