//! An adapter: updates of some of a decoder's linear layers, its embedding among them.

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

/// What an adapter may update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// `model.embed_tokens`, a linear layer of one-hot tokens.
    Embedding,
    /// A linear layer of the block of that number.
    Linear(usize, Target),
    /// `lm_head`, which the model may share with the embedding; an update is of the head alone.
    Head,
}

impl Module {
    /// Its path in the model, as in checkpoints and adapter files.
    pub fn path(self) -> String {
        match self {
            Module::Embedding => EMBEDDING.to_owned(),
            Module::Linear(layer, target) => format!("model.layers.{layer}.{}", target.path()),
            Module::Head => HEAD.to_owned(),
        }
    }

    /// Features that go in and come out of it; of the embedding the tokens go in.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        match self {
            Module::Embedding => (vocab, hidden),
            Module::Linear(_, target) => target.shape(config),
            Module::Head => (hidden, vocab),
        }
    }

    /// What a name such as `model.layers.14.self_attn.q_proj.lora_a` says of it: the module, and the
    /// rest, which is not empty.
    pub fn split(name: &str) -> Option<(Self, &str)> {
        for (path, module) in [(EMBEDDING, Module::Embedding), (HEAD, Module::Head)] {
            if let Some(rest) = name.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')) {
                return (!rest.is_empty()).then_some((module, rest));
            }
        }
        let (digits, path) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let layer: usize = digits.parse().ok()?;
        // `01` and `+1` would be a second name of block 1.
        if layer.to_string() != digits {
            return None;
        }
        Target::ALL.into_iter().find_map(|target| {
            let rest = path.strip_prefix(target.path())?.strip_prefix('.')?;
            (!rest.is_empty()).then_some((Module::Linear(layer, target), rest))
        })
    }
}

impl From<(usize, Target)> for Module {
    fn from((layer, target): (usize, Target)) -> Self {
        Module::Linear(layer, target)
    }
}

const EMBEDDING: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";

/// The updates of an adapter by module, and the weights that it brings along. `U` is a
/// [`Lora`](crate::ops::Lora), or what else an implementation of [`Ops`](crate::ops::Ops) can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter<U> {
    updates: BTreeMap<Module, U>,
    weights: BTreeMap<String, NamedTensor>,
}

impl<U> Adapter<U> {
    /// An adapter of these updates of linear layers of blocks.
    pub fn new(updates: impl IntoIterator<Item = ((usize, Target), U)>) -> Self {
        Self::of_modules(updates.into_iter().map(|(place, update)| (place.into(), update)))
    }

    /// An adapter of these updates.
    pub fn of_modules(updates: impl IntoIterator<Item = (Module, U)>) -> Self {
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

    /// The update of one layer of a block, if it has one.
    pub fn get(&self, layer: usize, target: Target) -> Option<&U> {
        self.of(Module::Linear(layer, target))
    }

    /// The update of one module, if it has one.
    pub fn of(&self, module: Module) -> Option<&U> {
        self.updates.get(&module)
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.weights.is_empty()
    }

    /// Whether all it has are weights.
    pub fn is_full(&self) -> bool {
        self.updates.is_empty() && !self.weights.is_empty()
    }

    /// Every update: the embedding's, block by block, the head's.
    pub fn modules(&self) -> impl Iterator<Item = (Module, &U)> {
        self.updates.iter().map(|(&module, update)| (module, update))
    }

    /// The updates of the blocks' layers, block by block.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Target, &U)> {
        self.modules().filter_map(|(module, update)| match module {
            Module::Linear(layer, target) => Some((layer, target, update)),
            Module::Embedding | Module::Head => None,
        })
    }

    /// The first update of the embedding or the head, if there is one.
    pub fn outside_of_blocks(&self) -> Option<Module> {
        [Module::Embedding, Module::Head].into_iter().find(|module| self.of(*module).is_some())
    }

    /// The first block with an update: nothing below it needs a gradient.
    pub fn first_layer(&self) -> Option<usize> {
        self.iter().next().map(|(layer, ..)| layer)
    }
}
