//! Everything a run needs to go on as if it had never stopped, in one safetensors file.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::config::TrainConfig;
use crate::data::source::SourceState;
use crate::{Error, Result};

/// A run between two iterations.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What it was started with.
    pub config: TrainConfig,
    /// Iterations done.
    pub iteration: usize,
    /// Optimizer updates done.
    pub updates: usize,
    /// Tokens with a loss in the batches that are not yet part of an update.
    pub accumulated: usize,
    /// Where the data order stands.
    pub source: SourceState,
    /// The lowest validation loss so far.
    pub best: Option<f32>,
    /// Norm of the gradients at the last update.
    pub gradient_norm: f32,
    /// Of each iteration since the last report: tokens with a loss, loss, gradient norm.
    pub interval: Vec<(usize, [f32; 2])>,
    /// Tokens with a loss since the start.
    pub trained_tokens: usize,
    /// What is trained, flat.
    pub parameters: Vec<f32>,
    /// Adam's first moments, momentum, Adafactor's means.
    pub first_moments: Vec<f32>,
    /// Adam's second moments.
    pub second_moments: Vec<f32>,
    /// Gradients of batches that are not yet part of an update.
    pub gradients: Vec<f32>,
}

/// What is in the file's metadata, as JSON.
#[derive(Serialize, Deserialize)]
struct Metadata {
    config: TrainConfig,
    iteration: usize,
    updates: usize,
    accumulated: usize,
    source: SourceState,
    best: Option<f32>,
    gradient_norm: f32,
    interval: Vec<(usize, [f32; 2])>,
    trained_tokens: usize,
}

const ARRAYS: [&str; 4] = ["parameters", "first_moments", "second_moments", "gradients"];

/// FNV-1a, 64 bits, of the metadata and the arrays: notices what a disk or a copy has damaged.
fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let hash = parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

impl Checkpoint {
    /// The key in the file's own metadata of a checksum, a space, and the rest as JSON. One key: the
    /// order of several would change from file to file.
    pub const METADATA: &str = "engram_checkpoint";

    /// The file's bytes.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where a number is not: no run could go on from it.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let losses = &self.interval;
        if let Some(i) = losses.iter().position(|(_, pair)| pair.iter().any(|v| !v.is_finite())) {
            let iteration = (self.iteration + 1 + i).saturating_sub(losses.len());
            let tensor = "the training loss or the gradient norm".to_owned();
            return Err(Error::NotFinite { iteration, tensor });
        }
        let metadata = Metadata {
            config: self.config.clone(),
            iteration: self.iteration,
            updates: self.updates,
            accumulated: self.accumulated,
            source: self.source.clone(),
            best: self.best,
            gradient_norm: self.gradient_norm,
            interval: self.interval.clone(),
            trained_tokens: self.trained_tokens,
        };
        let json = serde_json::to_string(&metadata).map_err(|e| Error::invalid(e.to_string()))?;
        let arrays = [&self.parameters, &self.first_moments, &self.second_moments, &self.gradients];
        for (name, values) in ARRAYS.iter().zip(arrays) {
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                let tensor = format!("{name}[{i}]");
                return Err(Error::NotFinite { iteration: self.iteration, tensor });
            }
        }
        let arrays = arrays.map(|values| -> Vec<u8> {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        });
        let parts = std::iter::once(json.as_bytes()).chain(arrays.iter().map(Vec::as_slice));
        let checksum = checksum(parts);
        let views = ARRAYS
            .iter()
            .zip(&arrays)
            .map(|(name, bytes)| {
                Ok((*name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| Error::invalid(e.to_string()))?;
        let metadata = HashMap::from([(Self::METADATA.to_owned(), format!("{checksum} {json}"))]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| Error::invalid(e.to_string()))
    }

    /// Reads such a file; `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Format`] if it is damaged or no such file.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        let damaged = |why: String| Error::format(name, format!("not a checkpoint: {why}"));
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
        let entry = header.metadata().as_ref().and_then(|map| map.get(Self::METADATA));
        let (sum, json) = entry
            .and_then(|entry| entry.split_once(' '))
            .ok_or_else(|| damaged(format!("it has no `{}` with a checksum", Self::METADATA)))?;
        let mut parts = vec![json.as_bytes()];
        for tensor in ARRAYS {
            parts.push(file.tensor(tensor).map_err(|e| damaged(e.to_string()))?.data());
        }
        if checksum(parts) != sum {
            return Err(damaged("its checksum is of another content".to_owned()));
        }
        let metadata: Metadata = serde_json::from_str(json).map_err(|e| damaged(e.to_string()))?;
        let array = |tensor: &str| {
            let view = file.tensor(tensor).map_err(|e| damaged(e.to_string()))?;
            if view.dtype() != Dtype::F32 {
                return Err(damaged(format!("{tensor} is {:?}, not F32", view.dtype())));
            }
            let values = view.data().chunks_exact(4);
            let values: Vec<f32> =
                values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            match values.iter().position(|v| !v.is_finite()) {
                Some(i) => Err(damaged(format!("{tensor}[{i}] is {}", values[i]))),
                None => Ok(values),
            }
        };
        Ok(Self {
            config: metadata.config,
            iteration: metadata.iteration,
            updates: metadata.updates,
            accumulated: metadata.accumulated,
            source: metadata.source,
            best: metadata.best,
            gradient_norm: metadata.gradient_norm,
            interval: metadata.interval,
            trained_tokens: metadata.trained_tokens,
            parameters: array("parameters")?,
            first_moments: array("first_moments")?,
            second_moments: array("second_moments")?,
            gradients: array("gradients")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::BatchSet;
    use crate::data::source::BatchSource;
    use crate::data::tokens::Example;
    use crate::testing::test;

    fn checkpoint() -> Checkpoint {
        let config = TrainConfig { batch_size: 1, ..Default::default() };
        let examples = vec![Example::new(vec![1, 2, 3], 1)];
        let set = BatchSet::new(examples, config.batch_config()).unwrap();
        Checkpoint {
            config,
            iteration: 7,
            updates: 3,
            accumulated: 5,
            source: BatchSource::new(set).unwrap().state().clone(),
            best: Some(0.1),
            gradient_norm: 0.7,
            interval: vec![(4, [0.3, 0.7])],
            trained_tokens: 28,
            parameters: vec![0.1, -0.0],
            first_moments: vec![f32::MIN_POSITIVE, 1e-45],
            second_moments: vec![f32::MAX, 0.0],
            gradients: vec![-1.5, 2.5],
        }
    }

    #[test]
    fn is_read_as_it_was_written() {
        let bytes = checkpoint().to_bytes().unwrap();
        assert_eq!(Checkpoint::from_bytes("c", &bytes).unwrap(), checkpoint());
    }

    #[test]
    fn every_damage_is_noticed() {
        let bytes = checkpoint().to_bytes().unwrap();
        let refused = |bytes: &[u8]| match Checkpoint::from_bytes("c", bytes) {
            Err(error) => assert!(error.to_string().starts_with("c: not a checkpoint"), "{error}"),
            // Spaces that pad the header mean nothing.
            Ok(read) => assert_eq!(read, checkpoint()),
        };
        for length in 0..bytes.len() {
            refused(&bytes[..length]);
        }
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            refused(&flipped);
        }
    }

    #[test]
    fn what_is_not_finite_is_not_written() {
        let spoilt = Checkpoint { parameters: vec![0.0, f32::INFINITY], ..checkpoint() };
        let error = spoilt.to_bytes().unwrap_err().to_string();
        assert!(error.starts_with("iteration 7: parameters[1] is not finite"), "{error}");
        let interval = vec![(4, [0.3, 0.7]), (4, [f32::NAN, 0.7]), (4, [0.3, 0.7])];
        let spoilt = Checkpoint { interval, ..checkpoint() };
        let error = spoilt.to_bytes().unwrap_err().to_string();
        assert!(error.starts_with("iteration 6: the training loss"), "{error}");
    }
}
