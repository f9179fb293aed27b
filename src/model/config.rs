//! What a checkpoint says of its architecture, in the words of Hugging Face's `config.json`.

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
