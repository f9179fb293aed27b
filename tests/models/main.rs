//! Whole models on golden files, natively and in a page.

mod adapters;
#[path = "../common/mod.rs"]
mod common;
mod decoder;
mod dora;
mod dpo;
mod embedding;
mod full;
mod lora_grads;
mod optimizer;
// Native only: the model is a file of the machine.
#[cfg(not(target_arch = "wasm32"))]
mod real;
mod tokenizer;
