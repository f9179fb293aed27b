//! Weight files: GGUF and safetensors, read into one checkpoint with Hugging Face's names.

mod cursor;
mod dtype;
mod gguf;
mod kquant;
mod metadata;
pub mod quant;
mod source;

pub use dtype::DType;
pub use gguf::{Gguf, GgufTensor};
pub use metadata::{Array, Metadata, Scalars, Value};
pub use source::{ByteSource, Bytes};
