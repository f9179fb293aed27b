//! Weight files: GGUF and safetensors, read into one checkpoint with Hugging Face's names;
//! and adapter files.

pub mod adapter;
mod checkpoint;
mod cursor;
mod dtype;
mod folder;
mod gguf;
mod gguf_config;
mod gguf_write;
mod kquant;
mod metadata;
pub(crate) mod names;
pub mod quant;
mod quantize;
mod safetensors;
mod safetensors_write;
mod source;
#[cfg(test)]
pub(crate) mod testing;

pub use checkpoint::{Checkpoint, TensorInfo, TokenizerFile};
pub use dtype::DType;
pub use folder::SafetensorsFolder;
pub use gguf::{Gguf, GgufTensor};
pub use gguf_config::GgufTokenizer;
pub use gguf_write::{Announced, Pairs, gguf_header};
pub use metadata::{Array, Metadata, Scalars, Value};
pub use quantize::{is_writable, quantize};
pub use safetensors::{Safetensors, SafetensorsTensor};
pub use safetensors_write::safetensors_header;
pub use source::{ByteSource, Bytes, Reading};
