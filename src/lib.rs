//! Engram runs small language models and trains LoRA adapters on them, on any GPU that
//! [`wgpu`] reaches: natively on Vulkan, Metal or DX12, in a browser tab on WebGPU.
//!
//! The path of the data, each step a module of its own:
//!
//! 1. [`formats`] reads GGUF and safetensors into one checkpoint with Hugging Face's names;
//! 2. [`text`] turns text into token ids and back, and chats into prompts;
//! 3. [`model`] is the decoder, written once over the operations of [`ops`], which
//!    [`kernels`] carry out on a device of [`gpu`];
//! 4. [`generate`] samples from it, [`train`] fits LoRA adapters to [`data`], and
//! 5. [`eval`] measures what the training did, [`mod@bench`] how fast all of it is.
//!
//! Nothing here touches files, arguments, a terminal or a clock: bytes, callbacks and clocks are
//! passed in. `ARCHITECTURE.md` has the map of the code.

pub mod bench;
#[cfg(feature = "burn")]
pub mod burn;
pub mod convert;
pub mod data;
pub mod error;
pub mod eval;
pub mod formats;
pub mod generate;
pub mod gpu;
pub mod kernels;
pub mod model;
pub mod ops;
#[cfg(test)]
mod testing;
pub mod text;
pub mod train;
#[cfg(target_arch = "wasm32")]
pub mod web;

pub use error::{Error, Result};

/// The README's example, compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The example of that page, compiled and run with the documentation's.
#[cfg(all(doctest, feature = "burn"))]
#[doc = include_str!("../docs/adapter-types.md")]
pub struct AdapterTypes;
