//! Our kernels against burn's autodiff, which shares no code with them; and burn's own path against
//! the goldens.
#![cfg(feature = "burn")]

#[path = "../common/mod.rs"]
mod common;
mod decoding;
mod kinds;
mod models;
#[cfg(feature = "burn-wgpu")]
mod on_gpu;
mod operations;
mod training;
mod weights;

use std::rc::Rc;

use engram::burn::{BurnModel, Device};
use engram::formats::Checkpoint;
use engram::generate::{Engine, Model};

/// The model on burn's CPU backend.
async fn on_burn(checkpoint: &Checkpoint) -> Engine {
    Engine::load_burn(&Device::cpu(), checkpoint, &mut |_, _| Ok(())).await.unwrap()
}

fn burn_model(engine: &Engine) -> &Rc<BurnModel> {
    match engine.model() {
        Model::Burn(model) => model,
        Model::Gpu(_) => panic!("it is on the GPU"),
    }
}
