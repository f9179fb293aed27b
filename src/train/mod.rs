//! LoRA training.
//!
//! [`Trainer`] records one training step (forward, backward, optimizer) and replays it batch by
//! batch. It knows no files and no clock: [`Trainer::advance`] hands out an [`Event`] at a time,
//! and [`Trainer::save`] everything that a resumed run needs to give the same numbers.

mod checkpoint;
mod config;
mod recording;
mod trainer;

pub use checkpoint::Checkpoint;
pub use config::{Optimizer, TrainConfig};
pub use recording::{LossRecording, StepBuffers, StepRecording};
pub use trainer::{Event, Trainer};
