//! Weight files: GGUF and safetensors, read into one checkpoint with Hugging Face's names.

mod source;

pub use source::{ByteSource, Bytes};
