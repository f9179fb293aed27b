//! An adapter of a kind that this crate has no kernels for, as files hold it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::AdapterTensors;
use crate::{Error, Result};

/// Parameters by name, and what made them: what [`formats::adapter`](crate::formats::adapter) reads
/// and writes of a kind that is not LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedAdapter {
    /// `peft_type` of its `adapter_config.json`, in capitals: `BOTTLENECK`.
    pub kind: String,
    /// What else `adapter_config.json` says.
    pub config: Map<String, Value>,
    /// By name, such as `model.layers.14.self_attn.o_proj.down.weight`.
    pub tensors: BTreeMap<String, NamedTensor>,
}

/// One array of a [`NamedAdapter`].
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Its sides.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// Any adapter in plain memory.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyAdapter {
    /// LoRA, with or without DoRA's magnitudes, and weights that take the place of the model's.
    Lora(AdapterTensors),
    /// Another kind.
    Named(NamedAdapter),
}

impl AnyAdapter {
    /// Its kind, as people call it.
    pub fn kind(&self) -> &str {
        match self {
            AnyAdapter::Lora(tensors) if tensors.is_full() => "full",
            AnyAdapter::Lora(tensors) => {
                match tensors.modules().any(|(_, lora)| lora.magnitude.is_some()) {
                    true => "DoRA",
                    false => "LoRA",
                }
            }
            AnyAdapter::Named(named) => &named.kind,
        }
    }

    /// The LoRA that it is; `name` is the adapter in errors.
    ///
    /// # Errors
    /// Another kind.
    pub fn lora(&self, name: &str) -> Result<&AdapterTensors> {
        match self {
            AnyAdapter::Lora(tensors) => Ok(tensors),
            AnyAdapter::Named(NamedAdapter { kind, .. }) => {
                Err(Error::format(name, format!("is a {kind} adapter, which needs --engine burn")))
            }
        }
    }

    /// Number of parameters.
    pub fn count(&self) -> usize {
        match self {
            AnyAdapter::Lora(tensors) => {
                let updates = tensors.modules().map(|(_, lora)| {
                    let magnitude = lora.magnitude.as_ref().map_or(0, Vec::len);
                    lora.a.len() + lora.b.len() + magnitude
                });
                let weights = tensors.weights().values().map(|weight| weight.values.len());
                updates.chain(weights).sum()
            }
            AnyAdapter::Named(named) => named.tensors.values().map(|t| t.values.len()).sum(),
        }
    }
}
