//! The Llama architecture (Touvron et al., 2023): SmolLM, SmolLM2, TinyLlama, Llama.
//!
//! Inference, training, evaluation and the CPU reference all run this one definition.

use super::{Adapter, ModelConfig, Module, Target};
use crate::Result;
use crate::kernels::attention::AttentionShape;
use crate::ops::{Adapted, Linear, Norm, Ops};

/// A decoder's frozen weights. `M` is a matrix, `V` a vector of whoever computes.
#[derive(Debug, Clone)]
pub struct Llama<M, V> {
    /// Its shape.
    pub config: ModelConfig,
    /// (vocab_size, hidden_size)
    pub embed_tokens: M,
    /// The blocks, first to last.
    pub layers: Vec<Block<M, V>>,
    /// (hidden_size)
    pub norm: V,
    /// (vocab_size, hidden_size); `None` if it is the embedding.
    pub lm_head: Option<Linear<M, V>>,
}

/// One block: attention and a gated MLP, each behind a norm and added to the residual stream.
#[derive(Debug, Clone)]
pub struct Block<M, V> {
    /// (hidden_size)
    pub input_layernorm: V,
    /// (heads · head_dim, hidden_size)
    pub q_proj: Linear<M, V>,
    /// (kv_heads · head_dim, hidden_size)
    pub k_proj: Linear<M, V>,
    /// (kv_heads · head_dim, hidden_size)
    pub v_proj: Linear<M, V>,
    /// (hidden_size, heads · head_dim)
    pub o_proj: Linear<M, V>,
    /// (hidden_size)
    pub post_attention_layernorm: V,
    /// (intermediate_size, hidden_size)
    pub gate_proj: Linear<M, V>,
    /// (intermediate_size, hidden_size)
    pub up_proj: Linear<M, V>,
    /// (hidden_size, intermediate_size)
    pub down_proj: Linear<M, V>,
}

impl<M: Clone, V: Clone> Llama<M, V> {
    /// The residual stream after the last block, (T, hidden_size), not yet normalised.
    pub fn hidden<O>(&self, ops: &mut O, adapter: Option<&Adapter<O::Update>>) -> Result<O::Tensor>
    where
        O: Ops<Matrix = M, Vector = V>,
    {
        let update = adapter.and_then(|a| a.of(Module::Embedding));
        let mut x = ops.embedding(&self.embed_tokens, update)?;
        for layer in 0..self.layers.len() {
            x = self.block(ops, layer, x, adapter)?;
        }
        Ok(x)
    }

    /// One block: (T, hidden_size) in and out.
    pub fn block<O>(
        &self,
        ops: &mut O,
        layer: usize,
        x: O::Tensor,
        adapter: Option<&Adapter<O::Update>>,
    ) -> Result<O::Tensor>
    where
        O: Ops<Matrix = M, Vector = V>,
    {
        let block = &self.layers[layer];
        let eps = self.config.rms_norm_eps;
        let shape = self.attention_shape();
        let update = |target| adapter.and_then(|a| a.get(layer, target));

        let norm = Norm { weight: &block.input_layernorm, eps };
        let layers = [
            Adapted { layer: &block.q_proj, update: update(Target::Q) },
            Adapted { layer: &block.k_proj, update: update(Target::K) },
            Adapted { layer: &block.v_proj, update: update(Target::V) },
            Adapted { layer: &block.o_proj, update: update(Target::O) },
        ];
        let x = ops.self_attention(layer, &x, &norm, &layers, shape)?;

        let norm = Norm { weight: &block.post_attention_layernorm, eps };
        let layers = [
            Adapted { layer: &block.gate_proj, update: update(Target::Gate) },
            Adapted { layer: &block.up_proj, update: update(Target::Up) },
            Adapted { layer: &block.down_proj, update: update(Target::Down) },
        ];
        ops.mlp(&x, &norm, &layers)
    }

    /// The logits (T, vocab_size) of [`Self::hidden`]'s result.
    pub fn logits<O>(
        &self,
        ops: &mut O,
        hidden: &O::Tensor,
        adapter: Option<&Adapter<O::Update>>,
    ) -> Result<O::Tensor>
    where
        O: Ops<Matrix = M, Vector = V>,
    {
        let normed = ops.rms_norm(hidden, &self.norm, self.config.rms_norm_eps)?;
        let update = adapter.and_then(|a| a.of(Module::Head));
        ops.linear(&normed, &self.head(), update, None)
    }

    /// A linear layer of a block.
    ///
    /// # Panics
    /// If the model has no block `layer`.
    pub fn linear(&self, layer: usize, target: Target) -> &Linear<M, V> {
        let block = &self.layers[layer];
        match target {
            Target::Q => &block.q_proj,
            Target::K => &block.k_proj,
            Target::V => &block.v_proj,
            Target::O => &block.o_proj,
            Target::Gate => &block.gate_proj,
            Target::Up => &block.up_proj,
            Target::Down => &block.down_proj,
        }
    }

    /// The LM head, which may be the embedding.
    pub fn head(&self) -> Linear<M, V> {
        let tied = || Linear { weight: self.embed_tokens.clone(), bias: None };
        self.lm_head.clone().unwrap_or_else(tied)
    }

    /// The shape of its attention.
    pub fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }
}
