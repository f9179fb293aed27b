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
    /// Of each iteration since the last report: tokens with a loss, loss, gradient norm.
    pub interval: Vec<(usize, [f32; 2])>,
    /// Tokens with a loss since the start.
    pub trained_tokens: usize,
    /// The adapter's parameters, flat.
    pub parameters: Vec<f32>,
    /// Adam's first moments.
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
    interval: Vec<(usize, [f32; 2])>,
    trained_tokens: usize,
}

/// The key of [`Metadata`] in the file's own metadata.
const METADATA: &str = "engram_checkpoint";

impl Checkpoint {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let metadata = Metadata {
            config: self.config.clone(),
            iteration: self.iteration,
            updates: self.updates,
            accumulated: self.accumulated,
            source: self.source.clone(),
            best: self.best,
            interval: self.interval.clone(),
            trained_tokens: self.trained_tokens,
        };
        let json = serde_json::to_string(&metadata).map_err(|e| Error::invalid(e.to_string()))?;
        let arrays = [
            ("parameters", &self.parameters),
            ("first_moments", &self.first_moments),
            ("second_moments", &self.second_moments),
            ("gradients", &self.gradients),
        ];
        let view = |(name, values): (&'static str, &'_ Vec<f32>)| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, values.len(), bytes)
        };
        let arrays: Vec<_> = arrays.map(view).into();
        let views = arrays
            .iter()
            .map(|(name, count, bytes)| {
                Ok((*name, TensorView::new(Dtype::F32, vec![*count], bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| Error::invalid(e.to_string()))?;
        let metadata = HashMap::from([(METADATA.to_owned(), json)]);
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
        let json = header.metadata().as_ref().and_then(|map| map.get(METADATA));
        let json = json.ok_or_else(|| damaged(format!("it has no `{METADATA}`")))?;
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
            interval: metadata.interval,
            trained_tokens: metadata.trained_tokens,
            parameters: array("parameters")?,
            first_moments: array("first_moments")?,
            second_moments: array("second_moments")?,
            gradients: array("gradients")?,
        })
    }
}
