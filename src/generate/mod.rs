//! Decoding: prefill, the replayed decode step, sampling, streaming text.
//!
//! [`Engine`] is a loaded model with its tokenizer; [`Decoder`] feeds it tokens and keeps the KV
//! cache; [`Engine::generate`] turns a prompt into streamed text with both. [`Likelihood`] says how
//! likely given tokens are.

mod decoder;
mod encoder;
mod engine;
mod likelihood;
mod logits;
mod sampler;
mod text;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use engine::Engine;
pub use likelihood::Likelihood;
pub use sampler::{Sampler, Sampling};
pub use text::{FinishReason, GenerateConfig, Generated, Timing};
