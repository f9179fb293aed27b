//! A model's weights as burn's tensors.

use burn::tensor::{Tensor, TensorData};

use super::Device;
use crate::formats::{Checkpoint, TensorInfo};
use crate::model::{Llama, Load, rows_f32};
use crate::{Error, Result};

/// A decoder on a device of burn's: every weight as f32, outside of the autodiff graph.
#[derive(Debug)]
pub struct BurnModel {
    /// Where it is.
    pub device: Device,
    /// Its weights: matrices (out, in).
    pub llama: Llama<Tensor<2>, Tensor<1>>,
}

impl BurnModel {
    /// Loads `checkpoint` dequantised, four bytes a weight; `on_progress(done, total)` in bytes of
    /// the file may break off by an error.
    ///
    /// # Errors
    /// As [`Llama::load`], and what `on_progress` gives.
    pub async fn load(
        device: &Device,
        checkpoint: &Checkpoint,
        on_progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        let names = checkpoint.tensor_names();
        let total = names.filter_map(|name| checkpoint.tensor(name)).map(bytes).sum();
        let mut loader = Loader { device, on_progress, done: 0, total };
        let llama = Llama::load(checkpoint, &mut loader).await?;
        (loader.on_progress)(total, total)?;
        Ok(Self { device: device.clone(), llama })
    }
}

/// Of a tensor in the file.
fn bytes(info: &TensorInfo) -> u64 {
    (info.rows() * info.row_bytes()) as u64
}

struct Loader<'a> {
    device: &'a Device,
    on_progress: &'a mut dyn FnMut(u64, u64) -> Result<()>,
    done: u64,
    total: u64,
}

impl Load for Loader<'_> {
    type Matrix = Tensor<2>;
    type Vector = Tensor<1>;

    async fn matrix(&mut self, checkpoint: &Checkpoint, name: &str) -> Result<Tensor<2>> {
        let Some(info) = checkpoint.tensor(name) else {
            return Err(Error::invalid(format!("the checkpoint has no tensor `{name}`")));
        };
        let shape = [info.rows(), info.columns()];
        let values = rows_f32(checkpoint, name, 0..info.rows()).await?;
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let problem =
                format!("{name}[{i}] is {}; the file is damaged, fetch it again", values[i]);
            return Err(Error::format(checkpoint.name(), problem));
        }
        self.done += bytes(info);
        (self.on_progress)(self.done, self.total)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device.burn()))
    }

    fn vector(&mut self, values: &[f32]) -> Result<Tensor<1>> {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Ok(Tensor::from_data(data, self.device.burn()))
    }
}
