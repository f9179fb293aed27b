//! Training: of adapters, and of weights themselves.
//!
//! [`Trainer`] draws batches, says when to validate and to update, and keeps the losses; a
//! [`Learner`] computes: [`GpuLearner`] replays one recorded step, `BurnLearner` asks burn. Neither
//! knows files or a clock: [`Trainer::advance`] hands out an [`Event`] at a time, and
//! [`Trainer::save`] everything that a resumed run needs to give the same numbers.

#[cfg(feature = "burn")]
mod burn_gradients;
#[cfg(feature = "burn")]
mod burn_learner;
mod checkpoint;
mod config;
mod gpu_learner;
mod layers;
mod learner;
mod preference;
mod recording;
mod schedule;
mod trainer;

#[cfg(feature = "burn")]
pub use burn_gradients::weight_gradients;
#[cfg(feature = "burn")]
pub use burn_learner::BurnLearner;
pub use checkpoint::Checkpoint;
pub use config::{AdapterType, Optimizer, TrainConfig, TrainMode};
pub use gpu_learner::GpuLearner;
pub use learner::{Learner, LearnerState, TrainStep};
pub use preference::Preference;
pub use recording::{LossRecording, StepBuffers, StepOptions, StepRecording};
pub use schedule::{Course, LrSchedule, ScheduleName};
pub use trainer::{Event, Room, TrainData, Trainer};
