//! Models into other files, with an adapter fused into their weights or without.
//!
//! [`Export`] is the weights' file, GGUF or safetensors, of which the caller writes one piece after
//! another; [`folder_files`] are the JSON files beside safetensors.

mod export;
mod folder;
mod metadata;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use export::Export;
pub use folder::{config_with_dtype, folder_files};
