//! Where burn computes.

use burn::tensor;
#[cfg(feature = "burn-wgpu")]
use burn::tensor::wgpu::WgpuSetup;

#[cfg(feature = "burn-wgpu")]
use crate::gpu::Context;
#[cfg(feature = "burn-wgpu")]
use crate::{Error, Result};

/// A device of burn's.
#[derive(Debug, Clone)]
pub struct Device {
    inner: tensor::Device,
    name: String,
    is_software: bool,
}

impl Device {
    /// The CPU, by burn's flex backend.
    pub fn cpu() -> Self {
        Self { inner: tensor::Device::flex(), name: "CPU".into(), is_software: true }
    }

    /// The device of `context`, opened with
    /// [`whole_adapter`](crate::gpu::ContextOptions::whole_adapter): burn's kernels and ours share it.
    ///
    /// Each call registers it anew; clone the result instead.
    ///
    /// # Errors
    /// A device that was opened with less than the adapter has; what burn refuses.
    #[cfg(feature = "burn-wgpu")]
    pub fn wgpu(context: &Context) -> Result<Self> {
        if !context.is_whole() {
            return Err(Error::invalid(
                "burn needs a device with all that its adapter has; open it as a whole_adapter",
            ));
        }
        let (instance, adapter) = context.handles().clone();
        let setup = WgpuSetup {
            instance,
            backend: adapter.get_info().backend,
            adapter,
            device: context.device().clone(),
            queue: context.queue().clone(),
        };
        let inner = tensor::Device::wgpu_options().setup(setup).init();
        let summary = context.adapter();
        Ok(Self {
            inner: inner.map_err(|error| Error::Gpu(error.to_string()))?,
            name: format!("{} ({})", summary.name, summary.backend),
            is_software: summary.is_software,
        })
    }

    /// burn's own handle of it.
    pub fn burn(&self) -> &tensor::Device {
        &self.inner
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the CPU does the work.
    pub fn is_software(&self) -> bool {
        self.is_software
    }
}
