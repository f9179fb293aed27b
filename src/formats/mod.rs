//! Weight files: GGUF and safetensors, read into one checkpoint with Hugging Face's names.

mod source;
mod tokenizer;

pub use source::{ByteSource, Bytes};
pub use tokenizer::GgufTokenizer;
