//! The decoder, one definition per architecture.

mod adapter;
mod adapter_tensors;
mod config;
mod fuse;
mod gpu_adapter;
mod gpu_load;
mod gpu_weights;
mod llama;
mod load;
mod named_adapter;
mod reference_load;
mod rope;
mod weights;

pub use adapter::{Adapter, Module, Target};
pub use adapter_tensors::AdapterTensors;
pub use config::{ModelConfig, RopeScaling, SUPPORTED_MODEL_TYPES};
pub use gpu_adapter::GpuAdapter;
pub use gpu_load::{GpuLlama, GpuLoad, Quantize};
pub use gpu_weights::{GpuWeights, WeightSet};
pub use llama::{Block, Llama};
pub use load::Load;
#[cfg(feature = "burn")]
pub(crate) use load::rows_f32;
pub use named_adapter::{AnyAdapter, NamedAdapter, NamedTensor};
pub use reference_load::ReferenceLlama;
pub use rope::rope_table;
pub use weights::{NamedWeight, Weight};

pub use crate::ops::Lora;
