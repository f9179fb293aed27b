//! Engram in a page: what `wasm-bindgen` exports.
//!
//! These classes are the lower half of the npm package: plain calls with plain data. Its upper
//! half, `js/`, gives them the shape people know (`engram.d.ts` is the contract of both): it
//! fetches and keeps files, streams, and moves all of it into a worker. No model, training or
//! evaluation logic is in either.

mod bench;
mod blob;
#[cfg(feature = "burn-wgpu")]
mod burn;
#[cfg(feature = "burn-wgpu")]
mod constructors;
mod data;
mod engine;
mod error;
mod evaluate;
mod sha256;
mod subgroups;
mod support;
mod trainer;
mod value;
mod variants;

pub use engine::WasmEngine;
pub use sha256::Sha256;
pub use trainer::WasmTrainer;

use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The thread's monotonic clock, milliseconds; windows and workers have it alike.
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;
}

/// The clock that the library asks for: seconds.
fn clock() -> f64 {
    performance_now() / 1e3
}
