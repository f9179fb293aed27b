//! Weight files: GGUF and safetensors, read into one checkpoint with Hugging Face's names.

mod dtype;
mod kquant;
pub mod quant;
mod source;

pub use dtype::DType;
pub use source::{ByteSource, Bytes};
