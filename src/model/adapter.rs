//! An adapter: updates of some of a decoder's linear layers.

use std::collections::BTreeMap;

use super::{ModelConfig, NamedTensor};

/// A linear layer of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `self_attn.q_proj`
    Q,
    /// `self_attn.k_proj`
    K,
    /// `self_attn.v_proj`
    V,
    /// `self_attn.o_proj`
    O,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
}

impl Target {
    /// All seven, in a block's order.
    pub const ALL: [Target; 7] =
        [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

    /// Its path within a block, as in checkpoints and adapter files: `self_attn.q_proj`, ….
    pub fn path(self) -> &'static str {
        match self {
            Target::Q => "self_attn.q_proj",
            Target::K => "self_attn.k_proj",
            Target::V => "self_attn.v_proj",
            Target::O => "self_attn.o_proj",
            Target::Gate => "mlp.gate_proj",
            Target::Up => "mlp.up_proj",
            Target::Down => "mlp.down_proj",
        }
    }

    /// Features that go in and come out of it.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let hidden = config.hidden_size;
        let query = config.num_attention_heads * config.head_dim;
        let key = config.num_key_value_heads * config.head_dim;
        match self {
            Target::Q => (hidden, query),
            Target::K | Target::V => (hidden, key),
            Target::O => (query, hidden),
            Target::Gate | Target::Up => (hidden, config.intermediate_size),
            Target::Down => (config.intermediate_size, hidden),
        }
    }

    /// Block and target of a parameter, such as `model.layers.14.self_attn.o_proj.down.weight`.
    pub fn of_parameter(name: &str) -> Option<(usize, Self)> {
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let of =
            |target: &Self| rest.strip_prefix(target.path()).is_some_and(|r| r.starts_with('.'));
        Some((layer.parse().ok()?, Self::ALL.into_iter().find(of)?))
    }

    /// The target of that path, or of its last part (`q_proj`).
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|t| t.path() == path || t.path().rsplit('.').next() == Some(path))
    }
}

/// The updates of an adapter by block and layer, and the weights that it brings along. `U` is a
/// [`Lora`](crate::ops::Lora), or what else an implementation of [`Ops`](crate::ops::Ops) can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter<U> {
    updates: BTreeMap<(usize, Target), U>,
    weights: BTreeMap<String, NamedTensor>,
}

impl<U> Adapter<U> {
    /// An adapter of these updates.
    pub fn new(updates: impl IntoIterator<Item = ((usize, Target), U)>) -> Self {
        Self { updates: updates.into_iter().collect(), weights: BTreeMap::new() }
    }

    /// The adapter with weights that take the place of the model's, by their names in its checkpoint
    /// (`model.embed_tokens.weight`): PEFT's `modules_to_save`, MLX-LM's full fine-tuning.
    pub fn with_weights(self, weights: BTreeMap<String, NamedTensor>) -> Self {
        Self { weights, ..self }
    }

    /// The weights that take the place of the model's.
    pub fn weights(&self) -> &BTreeMap<String, NamedTensor> {
        &self.weights
    }

    /// The update of one layer, if it has one.
    pub fn get(&self, layer: usize, target: Target) -> Option<&U> {
        self.updates.get(&(layer, target))
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.weights.is_empty()
    }

    /// Whether all it has are weights.
    pub fn is_full(&self) -> bool {
        self.updates.is_empty() && !self.weights.is_empty()
    }

    /// Every update, block by block.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Target, &U)> {
        self.updates.iter().map(|(&(layer, target), update)| (layer, target, update))
    }

    /// The first block with an update: nothing below it needs a gradient.
    pub fn first_layer(&self) -> Option<usize> {
        self.updates.keys().next().map(|&(layer, _)| layer)
    }
}
