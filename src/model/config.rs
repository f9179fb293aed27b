//! What a checkpoint says of its architecture, in the words of Hugging Face's `config.json`.

mod json;

use super::Target;
use crate::{Error, Result};

/// The architectures there is a decoder for.
pub const SUPPORTED_MODEL_TYPES: [&str; 1] = ["llama"];

/// Limits far above any model this library is for, and low enough that the product of any three
/// sizes fits 64 bits.
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCAB: usize = 1 << 21;
const MAX_COUNT: usize = 1 << 12;
const MAX_CONTEXT: usize = 1 << 21;

/// The fields of `config.json` that the decoder reads, with Hugging Face's names and defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The architecture: `llama`.
    pub model_type: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; a divisor of [`Self::num_attention_heads`].
    pub num_key_value_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// Longest context in tokens.
    pub max_position_embeddings: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// How the rotary frequencies are stretched, if they are.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the LM head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o have a bias.
    pub attention_bias: bool,
    /// Token that starts a text, if the model has one.
    pub bos_token_id: Option<u32>,
    /// Every token that ends an answer.
    pub eos_token_ids: Vec<u32>,
}

/// `rope_scaling` of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear {
        /// The stretch.
        factor: f32,
    },
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, smooth in between.
    Llama3 {
        /// The stretch of the long wavelengths.
        factor: f32,
        /// Wavelengths above `original / low_freq_factor` are stretched whole.
        low_freq_factor: f32,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// The context of the first training.
        original_max_position_embeddings: usize,
    },
}

impl ModelConfig {
    /// The names of the weights that a model of this shape has, without biases.
    pub fn weight_names(&self) -> impl Iterator<Item = String> {
        let of_block = |layer| {
            let norms = ["input_layernorm", "post_attention_layernorm"];
            let paths = norms.into_iter().chain(Target::ALL.map(Target::path));
            paths.map(move |path| format!("model.layers.{layer}.{path}.weight"))
        };
        let head = (!self.tie_word_embeddings).then_some("lm_head.weight");
        let others = ["model.embed_tokens.weight", "model.norm.weight"].into_iter().chain(head);
        (0..self.num_hidden_layers).flat_map(of_block).chain(others.map(str::to_owned))
    }

    /// The shape of a weight by its name in Hugging Face's checkpoints; none if no model of this shape
    /// has it.
    pub fn weight_shape(&self, name: &str) -> Option<Vec<usize>> {
        let (path, which) = name.rsplit_once('.')?;
        let linear = |ins, outs| match which {
            "weight" => Some(vec![outs, ins]),
            "bias" => Some(vec![outs]),
            _ => None,
        };
        let norm = || (which == "weight").then(|| vec![self.hidden_size]);
        match path {
            "model.embed_tokens" if which == "weight" => linear(self.hidden_size, self.vocab_size),
            "lm_head" if !self.tie_word_embeddings => linear(self.hidden_size, self.vocab_size),
            "model.norm" => norm(),
            _ => {
                let (layer, path) = path.strip_prefix("model.layers.")?.split_once('.')?;
                let layer: usize = layer.parse().ok()?;
                match path {
                    _ if layer >= self.num_hidden_layers => None,
                    "input_layernorm" | "post_attention_layernorm" => norm(),
                    _ => {
                        let target =
                            Target::ALL.into_iter().find(|target| target.path() == path)?;
                        let (ins, outs) = target.shape(self);
                        linear(ins, outs)
                    }
                }
            }
        }
    }

    /// Refuses a model type there is no decoder for; `name` is the file that asks for it.
    pub(crate) fn check_model_type(name: &str, model_type: &str) -> Result<()> {
        if SUPPORTED_MODEL_TYPES.contains(&model_type) {
            return Ok(());
        }
        Err(Error::format(
            name,
            format!(
                "architecture `{model_type}` is not supported; supported: {}",
                SUPPORTED_MODEL_TYPES.join(", ")
            ),
        ))
    }

    /// Refuses values that no decoder can be built from; `name` is the file they come from.
    pub(crate) fn validate(self, name: &str) -> Result<Self> {
        match self.problem() {
            None => Ok(self),
            Some(problem) => Err(Error::format(name, problem)),
        }
    }

    fn problem(&self) -> Option<String> {
        for (field, size, limit) in [
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_COUNT),
            ("num_attention_heads", self.num_attention_heads, MAX_COUNT),
            ("num_key_value_heads", self.num_key_value_heads, MAX_COUNT),
            ("head_dim", self.head_dim, MAX_COUNT),
            ("max_position_embeddings", self.max_position_embeddings, MAX_CONTEXT),
        ] {
            if size == 0 || size > limit {
                return Some(format!("{field} is {size}; it must be between 1 and {limit}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Some(format!(
                "num_key_value_heads {} does not divide num_attention_heads {}",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Some(format!("head_dim is {}; rotary embeddings need it even", self.head_dim));
        }
        for (field, number) in
            [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)]
        {
            if !(number.is_finite() && number > 0.0) {
                return Some(format!("{field} is {number}; it must be positive and finite"));
            }
        }
        let tokens = self.bos_token_id.iter().chain(&self.eos_token_ids);
        if let Some(id) = tokens.copied().find(|&id| id as usize >= self.vocab_size) {
            return Some(format!("token id {id} is not below vocab_size {}", self.vocab_size));
        }
        self.rope_scaling.as_ref().and_then(RopeScaling::problem)
    }
}

impl RopeScaling {
    fn problem(&self) -> Option<String> {
        let stretch = match *self {
            RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. } => factor,
        };
        if !(stretch.is_finite() && stretch >= 1.0) {
            return Some(format!("rope_scaling's factor is {stretch}; it must be at least 1"));
        }
        if let RopeScaling::Llama3 {
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
            ..
        } = *self
        {
            if !(low.is_finite() && high.is_finite() && 0.0 < low && low < high) {
                return Some(format!(
                    "rope_scaling's low_freq_factor {low} must be positive and below its \
                     high_freq_factor {high}"
                ));
            }
            if original == 0 || original > MAX_CONTEXT {
                return Some(format!(
                    "rope_scaling's original_max_position_embeddings is {original}; it must be \
                     between 1 and {MAX_CONTEXT}"
                ));
            }
        }
        None
    }

    /// What each of the `head_dim / 2` rotary frequencies `theta^(-2i / head_dim)` is divided by.
    ///
    /// Llama 3's rule is that of `transformers`' `_compute_llama3_parameters`: wavelengths in
    /// between are blended in the number of their turns within the original context.
    pub fn factors(&self, head_dim: usize, theta: f32) -> Vec<f32> {
        let frequency = |i: usize| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
        let divisor = |frequency: f64| match *self {
            RopeScaling::Linear { factor } => f64::from(factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
                let wavelength = std::f64::consts::TAU / frequency;
                let turns = original_max_position_embeddings as f64 / wavelength;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                1.0 / ((1.0 - kept) / f64::from(factor) + kept)
            }
        };
        (0..head_dim / 2).map(|i| divisor(frequency(i)) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn llama3_factors_are_those_of_transformers() {
        // transformers 5.23: theta 500000, head_dim 16 and Llama 3.2's scaling; the ratio of
        // the default inverse frequencies and the scaled ones.
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let factors = scaling.factors(16, 500_000.0);
        let expected = [1.0, 1.0, 1.0, 1.0, 3.292_262_6, 32.0, 32.0, 32.0];
        for (actual, expected) in factors.iter().zip(expected) {
            assert!((actual / expected - 1.0).abs() < 1e-5, "{factors:?}");
        }
        assert_eq!(factors.len(), 8);
    }

    #[test]
    fn linear_factors_are_all_the_same() {
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.factors(8, 1e4), [4.0; 4]);
    }
}
