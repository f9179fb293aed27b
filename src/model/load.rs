//! From a checkpoint to a decoder.

use std::ops::Range;

use super::llama::{Block, Llama};
use crate::formats::Checkpoint;
use crate::formats::quant::dequantize;
use crate::ops::Linear;
use crate::{Error, Result};

/// Takes a checkpoint's tensors to where they are computed with.
#[expect(async_fn_in_trait, reason = "used with static dispatch on one thread")]
pub trait Load {
    /// A weight matrix (out, in).
    type Matrix: Clone;
    /// A vector of f32.
    type Vector: Clone;
    /// Loads a matrix.
    async fn matrix(&mut self, checkpoint: &Checkpoint, name: &str) -> Result<Self::Matrix>;
    /// Takes a vector.
    fn vector(&mut self, values: &[f32]) -> Result<Self::Vector>;
}

impl<M: Clone, V: Clone> Llama<M, V> {
    /// Loads every tensor of `checkpoint` with `loader`.
    ///
    /// # Errors
    /// What reading gives, and a vector that holds a number that is not finite.
    pub async fn load<L>(checkpoint: &Checkpoint, loader: &mut L) -> Result<Self>
    where
        L: Load<Matrix = M, Vector = V>,
    {
        let config = checkpoint.config.clone();
        let embed_tokens = loader.matrix(checkpoint, "model.embed_tokens.weight").await?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let path = |name: &str| format!("model.layers.{i}.{name}");
            layers.push(Block {
                input_layernorm: vector(checkpoint, loader, &path("input_layernorm.weight"))
                    .await?,
                q_proj: linear(checkpoint, loader, &path("self_attn.q_proj")).await?,
                k_proj: linear(checkpoint, loader, &path("self_attn.k_proj")).await?,
                v_proj: linear(checkpoint, loader, &path("self_attn.v_proj")).await?,
                o_proj: linear(checkpoint, loader, &path("self_attn.o_proj")).await?,
                post_attention_layernorm: vector(
                    checkpoint,
                    loader,
                    &path("post_attention_layernorm.weight"),
                )
                .await?,
                gate_proj: linear(checkpoint, loader, &path("mlp.gate_proj")).await?,
                up_proj: linear(checkpoint, loader, &path("mlp.up_proj")).await?,
                down_proj: linear(checkpoint, loader, &path("mlp.down_proj")).await?,
            });
        }
        let norm = vector(checkpoint, loader, "model.norm.weight").await?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(linear(checkpoint, loader, "lm_head").await?),
        };
        Ok(Self { config, embed_tokens, layers, norm, lm_head })
    }
}

async fn linear<L: Load>(
    checkpoint: &Checkpoint,
    loader: &mut L,
    path: &str,
) -> Result<Linear<L::Matrix, L::Vector>> {
    let weight = loader.matrix(checkpoint, &format!("{path}.weight")).await?;
    let bias = format!("{path}.bias");
    let bias = match checkpoint.tensor(&bias) {
        Some(_) => Some(vector(checkpoint, loader, &bias).await?),
        None => None,
    };
    Ok(Linear { weight, bias })
}

async fn vector<L: Load>(checkpoint: &Checkpoint, loader: &mut L, name: &str) -> Result<L::Vector> {
    let values = rows_f32(checkpoint, name, 0..1).await?;
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        let problem = format!("{name}[{i}] is {}; the file is damaged, fetch it again", values[i]);
        return Err(Error::format(checkpoint.name(), problem));
    }
    loader.vector(&values)
}

/// Rows of a tensor as f32.
pub(crate) async fn rows_f32(
    checkpoint: &Checkpoint,
    name: &str,
    rows: Range<usize>,
) -> Result<Vec<f32>> {
    let mut bytes = Vec::new();
    checkpoint.read_rows(name, rows, &mut bytes).await?;
    let Some(info) = checkpoint.tensor(name) else { return Ok(Vec::new()) };
    let mut values = vec![0.0; bytes.len() / info.row_bytes() * info.columns()];
    dequantize(info.dtype, &bytes, &mut values)?;
    Ok(values)
}
