//! The second engine: the same decoder on [burn](https://burn.dev)'s tensors and its autodiff.
//!
//! It serves whoever has no usable GPU ([`Device::cpu`], burn's flex backend: SIMD and threads),
//! whoever tries an adapter type before there are kernels for it ([`AdapterKind`]), and the tests of
//! our own kernels, since its gradients come from code that shares nothing with them.
//!
//! [`BurnOps`] is [`Ops`](crate::ops::Ops) on burn's tensors; [`BurnModel`] is the one decoder
//! definition with weights in f32. Generation and training are those of every other engine.

mod adapter;
mod bottleneck;
mod device;
mod dora;
mod kind;
mod load;
mod lora;
mod ops;

pub use adapter::BurnAdapter;
pub use bottleneck::{Bottleneck, BottleneckConfig};
pub use device::Device;
pub use dora::DoraModule;
pub(crate) use kind::parameter_names;
pub use kind::{
    AdapterKind, FrozenLinear, LinearUpdate, flat_gradients, flat_parameters, fresh, fresh_by,
    fresh_on, same_shape, with_parameters,
};
pub use load::BurnModel;
pub use lora::{LoraConfig, LoraModule};
pub use ops::{BurnCache, BurnOps, Packed};

use burn::tensor::Tensor;

use crate::{Error, Result};

/// A tensor's values, row-major, once they are computed.
///
/// # Errors
/// [`Error::Gpu`] if the device failed.
pub async fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor.into_data_async().await.map_err(|error| Error::Gpu(error.to_string()))?;
    data.try_into_vec().map_err(|error| Error::Gpu(format!("reading back from burn: {error:?}")))
}
