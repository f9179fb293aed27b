//! The decoder, one definition per architecture.

mod config;

pub use config::{ModelConfig, RopeScaling, SUPPORTED_MODEL_TYPES};
