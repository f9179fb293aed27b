//! Decoding: prefill, the replayed decode step, sampling, streaming text.
//!
//! [`Engine`] is a loaded model with its tokenizer; [`Decoder`] feeds it tokens and keeps the KV
//! cache; [`Engine::generate`] turns a prompt into streamed text with both. [`Forward`] computes a
//! text without a cache, and [`Likelihood`] says how likely its tokens are. Each asks the [`Model`],
//! which is on the GPU or burn's.

#[cfg(feature = "burn")]
mod burn_decoder;
mod decoder;
mod encoder;
mod engine;
mod forward;
mod gpu_decoder;
mod gpu_forward;
mod likelihood;
mod logits;
mod model;
mod sampling;
mod text;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use engine::Engine;
pub use forward::Forward;
pub use likelihood::Likelihood;
pub use model::{GpuModel, LoadedAdapter, Model, Place};
pub use sampling::Sampling;
pub use text::{FinishReason, GenerateConfig, Generated, Timing};
