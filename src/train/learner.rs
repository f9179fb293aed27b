//! What a training computes with: the part of it that knows a device.

use std::ops::Range;

use crate::Result;
use crate::data::batch::Batch;
use crate::model::AnyAdapter;

/// Computes losses, gradients and updates of one adapter.
///
/// [`Trainer`](super::Trainer) decides which batches, when to update and by how much; it asks one
/// of these to do it.
#[expect(async_fn_in_trait, reason = "used with static dispatch on one thread")]
pub trait Learner {
    /// Numbers that are trained.
    fn parameter_count(&self) -> usize;

    /// Dispatches of one training step with its update, where that is known.
    fn dispatches_per_step(&self) -> Option<usize>;

    /// Adds the gradients of `batch` to those so far and updates the parameters where `step` says
    /// so. An update whose gradients are not finite is left out.
    async fn train(&mut self, batch: &Batch, step: &TrainStep) -> Result<()>;

    /// Loss and gradient norm of the first `count` batches that [`Self::train`] noted.
    async fn history(&self, count: usize) -> Result<Vec<[f32; 2]>>;

    /// The weighted loss of each token of `batch`, in its order: with what is trained, or of the model
    /// as it is without.
    async fn token_losses(&mut self, batch: &Batch, trained: bool) -> Result<Vec<f32>>;

    /// The weighted losses of `batches`, added up.
    async fn loss(&mut self, batches: Vec<Batch>) -> Result<f32>;

    /// What [`Self::restore`] needs to go on.
    async fn state(&self) -> Result<LearnerState>;

    /// Goes on from `state`.
    ///
    /// # Errors
    /// A state of another number of parameters.
    fn restore(&mut self, state: &LearnerState) -> Result<()>;

    /// The arrays that the parameters are made of, in their order: names for people, and places.
    fn parameter_names(&self) -> Vec<(String, Range<usize>)>;

    /// The adapter as it is now.
    async fn adapter(&self) -> Result<AnyAdapter>;
}

/// One call of [`Learner::train`].
#[derive(Debug, Clone, Copy)]
pub struct TrainStep {
    /// The iteration, counted from 1.
    pub iteration: usize,
    /// Which place of the history gets its loss.
    pub slot: usize,
    /// Whether the gradients begin anew.
    pub first: bool,
    /// Whether the parameters are updated.
    pub last: bool,
    /// Step size of the update.
    pub learning_rate: f32,
    /// Multiplies the gradients of the update.
    pub gradient_scale: f32,
    /// Updates done when this one is.
    pub updates: usize,
    /// What is noted as the batch's loss, in the place of its weighted losses, added up.
    pub loss: Option<f32>,
}

/// A learner between two batches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LearnerState {
    /// What is trained.
    pub parameters: Vec<f32>,
    /// Adam's first moments, momentum, Adafactor's means: one of several a parameter.
    pub first_moments: Vec<f32>,
    /// Adam's second moments.
    pub second_moments: Vec<f32>,
    /// Gradients so far, one a parameter.
    pub gradients: Vec<f32>,
    /// Norm of the gradients at the last update.
    pub gradient_norm: f32,
    /// Updates done.
    pub updates: usize,
    /// Loss and gradient norm of each batch since the last report.
    pub history: Vec<[f32; 2]>,
}

impl LearnerState {
    /// Refuses a state of another number of parameters than `count`, or of so many moments.
    pub(super) fn check(&self, count: usize, moments: [usize; 2]) -> Result<()> {
        for (values, expected, what) in [
            (&self.parameters, count, "parameters"),
            (&self.first_moments, moments[0], "first moments"),
            (&self.second_moments, moments[1], "second moments"),
            (&self.gradients, count, "gradients"),
        ] {
            if values.len() != expected {
                return Err(crate::Error::invalid(format!(
                    "the checkpoint has {} {what}, this model and these settings {expected}",
                    values.len()
                )));
            }
        }
        Ok(())
    }
}
