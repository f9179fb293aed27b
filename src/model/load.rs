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
    /// Loads matrices of as many columns that are multiplied by one input.
    async fn matrices(
        &mut self,
        checkpoint: &Checkpoint,
        names: &[String],
    ) -> Result<Vec<Self::Matrix>> {
        let mut matrices = Vec::with_capacity(names.len());
        for name in names {
            matrices.push(self.matrix(checkpoint, name).await?);
        }
        Ok(matrices)
    }
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
            let input_layernorm =
                vector(checkpoint, loader, &path("input_layernorm.weight")).await?;
            let of_input = ["q_proj", "k_proj", "v_proj"].map(|n| path(&format!("self_attn.{n}")));
            let [q_proj, k_proj, v_proj] = linears(checkpoint, loader, of_input).await?;
            let [o_proj] = linears(checkpoint, loader, [path("self_attn.o_proj")]).await?;
            let post_attention_layernorm =
                vector(checkpoint, loader, &path("post_attention_layernorm.weight")).await?;
            let of_attention = [path("mlp.gate_proj"), path("mlp.up_proj")];
            let [gate_proj, up_proj] = linears(checkpoint, loader, of_attention).await?;
            let [down_proj] = linears(checkpoint, loader, [path("mlp.down_proj")]).await?;
            layers.push(Block {
                input_layernorm,
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                post_attention_layernorm,
                gate_proj,
                up_proj,
                down_proj,
            });
        }
        let norm = vector(checkpoint, loader, "model.norm.weight").await?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => {
                let [head] = linears(checkpoint, loader, ["lm_head".to_owned()]).await?;
                Some(head)
            }
        };
        Ok(Self { config, embed_tokens, layers, norm, lm_head })
    }
}

/// Linear layers of one input.
async fn linears<L: Load, const N: usize>(
    checkpoint: &Checkpoint,
    loader: &mut L,
    paths: [String; N],
) -> Result<[Linear<L::Matrix, L::Vector>; N]> {
    let names = paths.each_ref().map(|path| format!("{path}.weight"));
    let weights = match &names[..] {
        [name] => vec![loader.matrix(checkpoint, name).await?],
        names => loader.matrices(checkpoint, names).await?,
    };
    let mut layers = Vec::with_capacity(N);
    for (weight, path) in weights.into_iter().zip(&paths) {
        let bias = format!("{path}.bias");
        let bias = match checkpoint.tensor(&bias) {
            Some(_) => Some(vector(checkpoint, loader, &bias).await?),
            None => None,
        };
        layers.push(Linear { weight, bias });
    }
    let found = layers.len();
    layers.try_into().map_err(|_| Error::invalid(format!("{found} of {N} matrices were loaded")))
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
