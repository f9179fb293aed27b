//! Weight files: GGUF and safetensors, read into one checkpoint with Hugging Face's names;
//! and adapter files.

pub mod adapter;
mod checkpoint;
mod cursor;
mod dtype;
mod folder;
mod gguf;
mod gguf_config;
mod kquant;
mod metadata;
mod names;
pub mod quant;
mod safetensors;
mod source;
#[cfg(test)]
mod testing;

pub use checkpoint::{Checkpoint, TensorInfo, TokenizerFile};
pub use dtype::DType;
pub use folder::SafetensorsFolder;
pub use gguf::{Gguf, GgufTensor};
pub use gguf_config::GgufTokenizer;
pub use metadata::{Array, Metadata, Scalars, Value};
pub use safetensors::{Safetensors, SafetensorsTensor};
pub use source::{ByteSource, Bytes, Reading};
