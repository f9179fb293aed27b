//! A decoder's weights by their names.

use super::{Llama, ModelConfig, Target};
use crate::ops::Linear;

/// One weight of a decoder.
#[derive(Debug, Clone)]
pub enum Weight<M, V> {
    /// (out, in)
    Matrix(M),
    /// A norm's weight or a bias, and how long it is.
    Vector(V, usize),
}

/// A weight and its name.
pub type NamedWeight<M, V> = (String, Weight<M, V>);

impl<M, V> Llama<M, V> {
    /// Every weight by its name in Hugging Face's checkpoints, block by block. Matrices that are
    /// multiplied by one input stand in one group, everything else in a group of its own.
    pub fn weights_mut(&mut self) -> Vec<Vec<NamedWeight<&mut M, &mut V>>> {
        let config = &self.config;
        let hidden = config.hidden_size;
        let mut groups = Vec::new();
        groups.push(vec![matrix("model.embed_tokens", &mut self.embed_tokens)]);
        for (i, block) in self.layers.iter_mut().enumerate() {
            let path = |name: &str| format!("model.layers.{i}.{name}");
            let norm = path("input_layernorm");
            groups.push(vec![vector(&norm, "weight", &mut block.input_layernorm, hidden)]);
            linears(
                &mut groups,
                config,
                i,
                [
                    (Target::Q, &mut block.q_proj),
                    (Target::K, &mut block.k_proj),
                    (Target::V, &mut block.v_proj),
                ],
            );
            linears(&mut groups, config, i, [(Target::O, &mut block.o_proj)]);
            let norm = path("post_attention_layernorm");
            groups.push(vec![vector(&norm, "weight", &mut block.post_attention_layernorm, hidden)]);
            linears(
                &mut groups,
                config,
                i,
                [(Target::Gate, &mut block.gate_proj), (Target::Up, &mut block.up_proj)],
            );
            linears(&mut groups, config, i, [(Target::Down, &mut block.down_proj)]);
        }
        groups.push(vec![vector("model.norm", "weight", &mut self.norm, hidden)]);
        if let Some(head) = &mut self.lm_head {
            groups.push(vec![matrix("lm_head", &mut head.weight)]);
            if let Some(bias) = &mut head.bias {
                groups.push(vec![vector("lm_head", "bias", bias, config.vocab_size)]);
            }
        }
        groups
    }
}

fn matrix<'a, M, V>(path: &str, matrix: &'a mut M) -> NamedWeight<&'a mut M, &'a mut V> {
    (format!("{path}.weight"), Weight::Matrix(matrix))
}

fn vector<'a, M, V>(
    path: &str,
    which: &str,
    vector: &'a mut V,
    length: usize,
) -> NamedWeight<&'a mut M, &'a mut V> {
    (format!("{path}.{which}"), Weight::Vector(vector, length))
}

/// The linear layers of one input: their matrices as a group, then their biases.
fn linears<'a, M, V, const N: usize>(
    groups: &mut Vec<Vec<NamedWeight<&'a mut M, &'a mut V>>>,
    config: &ModelConfig,
    layer: usize,
    linears: [(Target, &'a mut Linear<M, V>); N],
) {
    let mut biases = Vec::new();
    let mut matrices = Vec::new();
    for (target, linear) in linears {
        let path = format!("model.layers.{layer}.{}", target.path());
        matrices.push(matrix(&path, &mut linear.weight));
        if let Some(bias) = &mut linear.bias {
            biases.push(vec![vector(&path, "bias", bias, target.shape(config).1)]);
        }
    }
    groups.push(matrices);
    groups.extend(biases);
}
