//! The gradients of a model's own weights, by burn's autodiff.

use burn::tensor::{Gradients, Tensor};

use super::burn_learner::cross_entropies;
use crate::Result;
use crate::burn::{BurnModel, BurnOps, Packed};
use crate::data::batch::Batch;
use crate::model::{Llama, Weight, rope_table};

/// The weighted loss of `batch`, added up, and the gradient of every weight in that weight's place.
/// The logits of all of its tokens exist at once.
///
/// # Errors
/// What the device reports.
pub fn weight_gradients(
    model: &BurnModel,
    batch: &Batch,
) -> Result<(Tensor<1>, Llama<Tensor<2>, Tensor<1>>)> {
    let mut llama = model.llama.clone();
    for (_, weight) in llama.weights_mut().into_iter().flatten() {
        match weight {
            Weight::Matrix(matrix) => *matrix = leaf(matrix),
            Weight::Vector(vector, _) => *vector = leaf(vector),
        }
    }
    let positions = batch.tokens.iter().map(|token| token.position as usize + 1).max();
    let table = rope_table(&llama.config, positions.unwrap_or(0));
    let packed = Packed::new(&model.device, &batch.tokens, &table, llama.config.head_dim)?;
    let mut ops = BurnOps::new(&packed);
    let hidden = llama.hidden(&mut ops, None)?;
    let logits = llama.logits(&mut ops, &hidden, None)?;
    let loss = cross_entropies(&model.device, logits, &batch.targets).sum();
    let gradients = loss.backward();
    for (_, weight) in llama.weights_mut().into_iter().flatten() {
        match weight {
            Weight::Matrix(matrix) => *matrix = gradient(matrix, &gradients),
            Weight::Vector(vector, _) => *vector = gradient(vector, &gradients),
        }
    }
    Ok((loss.inner(), llama))
}

/// The same values, with a gradient of their own.
fn leaf<const D: usize>(weight: &Tensor<D>) -> Tensor<D> {
    weight.clone().autodiff().require_grad()
}

fn gradient<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Tensor<D> {
    leaf.grad(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like())
}
