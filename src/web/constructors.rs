//! Runs burn's constructors once.
//!
//! cubecl registers its intermediate representation through `inventory`, by constructors that a
//! linker for a library without an entry point has to run somewhere: unless something calls them,
//! it wraps every export so that each call from JavaScript runs them all again. That took 160 µs a
//! call; now one takes less than 2 (`docs/performance.md`).

use wasm_bindgen::prelude::*;

#[expect(unsafe_code, reason = "the linker's own function, which Rust has no safe name for")]
unsafe extern "C" {
    fn __wasm_call_ctors();
}

/// Runs when the module has been loaded, before anything else in it.
#[wasm_bindgen(start)]
#[expect(unsafe_code, reason = "nothing has used what the constructors set up, and they run once")]
pub fn run_constructors() {
    unsafe { __wasm_call_ctors() }
}
