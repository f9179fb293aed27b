//! A model and its adapters where they are computed with: on the GPU by our kernels, or by burn.

use std::rc::Rc;

use crate::Result;
#[cfg(feature = "burn")]
use crate::burn::{BurnAdapter, BurnModel};
use crate::gpu::Context;
use crate::model::{Adapter, AnyAdapter, GpuAdapter, GpuLlama, ModelConfig};
use crate::ops::GpuLora;

/// Weights on a device.
#[derive(Debug, Clone)]
pub enum Model {
    /// Our kernels', on any GPU that wgpu reaches.
    Gpu(GpuModel),
    /// burn's, on the CPU or on the GPU.
    #[cfg(feature = "burn")]
    Burn(Rc<BurnModel>),
}

/// Weights on a GPU.
#[derive(Debug, Clone)]
pub struct GpuModel {
    /// The device.
    pub context: Context,
    /// The weights on it.
    pub llama: Rc<GpuLlama>,
}

/// An adapter on the device of its model.
#[derive(Debug, Clone)]
pub enum LoadedAdapter {
    /// For [`Model::Gpu`].
    Gpu(GpuAdapter),
    /// For [`Model::Burn`].
    #[cfg(feature = "burn")]
    Burn(Rc<BurnAdapter>),
}

/// Where a model is, for people and reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The engine: `wgpu` or `burn`.
    pub engine: &'static str,
    /// The GPU adapter's name and backend, or `CPU`.
    pub device: String,
    /// Whether the CPU does the work.
    pub is_software: bool,
}

impl Model {
    /// Its shape.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Model::Gpu(gpu) => &gpu.llama.config,
            #[cfg(feature = "burn")]
            Model::Burn(burn) => &burn.llama.config,
        }
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        match self {
            Model::Gpu(gpu) => {
                let adapter = gpu.context.adapter();
                Place {
                    engine: "wgpu",
                    device: format!("{} ({})", adapter.name, adapter.backend),
                    is_software: adapter.is_software,
                }
            }
            #[cfg(feature = "burn")]
            Model::Burn(burn) => Place {
                engine: "burn",
                device: burn.device.name().to_owned(),
                is_software: burn.device.is_software(),
            },
        }
    }

    /// Puts an adapter beside it; `name` is the adapter in errors.
    ///
    /// # Errors
    /// An adapter of another model, of a kind that the engine does not know, or too large.
    pub fn load_adapter(&self, name: &str, adapter: &AnyAdapter) -> Result<LoadedAdapter> {
        match self {
            Model::Gpu(gpu) => {
                let tensors = adapter.lora(name)?;
                tensors.check(name, self.config())?;
                Ok(LoadedAdapter::Gpu(GpuAdapter::load(&gpu.context, &gpu.llama, tensors)?))
            }
            #[cfg(feature = "burn")]
            Model::Burn(burn) => {
                Ok(LoadedAdapter::Burn(Rc::new(BurnAdapter::load(burn, name, adapter)?)))
            }
        }
    }

    /// The GPU's side of it.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if burn computes it.
    pub fn gpu(&self) -> Result<&GpuModel> {
        match self {
            Model::Gpu(gpu) => Ok(gpu),
            #[cfg(feature = "burn")]
            Model::Burn(_) => {
                Err(crate::Error::invalid("the model is on the burn engine, not on wgpu"))
            }
        }
    }
}

impl GpuModel {
    /// What computes with `adapter`: the model with the weights that it brings along, and its updates.
    pub(super) fn with(
        &self,
        adapter: Option<&LoadedAdapter>,
    ) -> Result<(Self, Option<Rc<Adapter<GpuLora>>>)> {
        let Some(adapter) = adapter else { return Ok((self.clone(), None)) };
        match adapter {
            LoadedAdapter::Gpu(gpu) => {
                let llama = gpu.weights.as_ref().map_or(&self.llama, |weights| &weights.llama);
                let model = Self { context: self.context.clone(), llama: llama.clone() };
                Ok((model, Some(gpu.adapter.clone())))
            }
            #[cfg(feature = "burn")]
            LoadedAdapter::Burn(_) => Err(other_engine()),
        }
    }
}

#[cfg(feature = "burn")]
impl LoadedAdapter {
    pub(super) fn burn(&self) -> Result<&Rc<BurnAdapter>> {
        match self {
            LoadedAdapter::Burn(burn) => Ok(burn),
            LoadedAdapter::Gpu(_) => Err(other_engine()),
        }
    }
}

#[cfg(feature = "burn")]
fn other_engine() -> crate::Error {
    crate::Error::invalid("the adapter was loaded for another engine than the model's")
}
