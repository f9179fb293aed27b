//! LoRA (Hu et al., 2021) as a burn module.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::adapter::updates_alone;
use super::{AdapterKind, BurnModel, FrozenLinear, LinearUpdate, read};
use crate::data::random::SplitMix64;
use crate::model::{Adapter, AnyAdapter};
use crate::ops::Lora;
use crate::{Error, Result};

/// `y += scale · (x A) B`.
#[derive(Module, Debug)]
pub struct LoraModule {
    /// (in, rank)
    pub a: Param<Tensor<2>>,
    /// (rank, out)
    pub b: Param<Tensor<2>>,
    /// Used as it is.
    #[module(skip)]
    pub scale: f32,
}

/// Of every update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Columns of `a`.
    pub rank: usize,
    /// Multiplies the update.
    pub scale: f32,
}

impl LoraModule {
    /// From an update's values; a magnitude is left out.
    pub fn from_update(lora: &Lora<Vec<f32>>, device: &burn::tensor::Device) -> Self {
        let matrix = |values: &[f32], shape: [usize; 2]| {
            Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), shape), device))
        };
        let rank = lora.rank;
        Self {
            a: matrix(&lora.a, [lora.a.len() / rank, rank]),
            b: matrix(&lora.b, [rank, lora.b.len() / rank]),
            scale: lora.scale,
        }
    }

    /// To an update's values, without a magnitude.
    pub(super) async fn to_update(&self) -> Result<Lora<Vec<f32>>> {
        let [_, rank] = self.a.val().dims();
        let a = read(self.a.val().inner()).await?;
        let b = read(self.b.val().inner()).await?;
        Ok(Lora { a, b, rank, scale: self.scale, magnitude: None })
    }

    /// `scale · (x A) B`, (T, out).
    pub(super) fn low_rank(&self, x: &Tensor<2>) -> Tensor<2> {
        x.clone().matmul(self.a.val()).matmul(self.b.val()).mul_scalar(self.scale)
    }
}

impl LinearUpdate for LoraModule {
    fn forward(&self, _: &FrozenLinear, x: &Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        y + self.low_rank(x)
    }
}

impl AdapterKind for LoraModule {
    const KIND: &'static str = "LORA";
    type Config = LoraConfig;

    /// `a` uniform in ±1/√in, `b` zero: the values of
    /// [`AdapterTensors::init`](crate::model::AdapterTensors::init).
    fn new(layer: &FrozenLinear, config: &LoraConfig, random: &mut SplitMix64) -> Self {
        let [outs, ins] = layer.weight.dims();
        let bound = 1.0 / (ins as f64).sqrt();
        let LoraConfig { rank, scale } = *config;
        let mut value = || ((2.0 * random.next_f64() - 1.0) * bound) as f32;
        let a = (0..ins * rank).map(|_| value()).collect();
        let lora = Lora { a, b: vec![0.0; rank * outs], rank, scale, magnitude: None };
        Self::from_update(&lora, &layer.weight.device())
    }

    fn load(model: &BurnModel, name: &str, adapter: &AnyAdapter) -> Result<Adapter<Self>> {
        let tensors = updates_alone(name, adapter)?;
        tensors.check(name, &model.llama.config)?;
        if tensors.iter().any(|(_, _, lora)| lora.magnitude.is_some()) {
            return Err(Error::format(name, "is a DoRA adapter, not a LoRA one"));
        }
        let device = model.device.burn();
        let update = |(layer, target, lora)| ((layer, target), Self::from_update(lora, device));
        Ok(Adapter::new(tensors.iter().map(update)))
    }

    async fn save(adapter: &Adapter<Self>, _: &LoraConfig) -> Result<AnyAdapter> {
        let mut updates = Vec::new();
        for (layer, target, module) in adapter.iter() {
            updates.push(((layer, target), module.to_update().await?));
        }
        Ok(AnyAdapter::Lora(Adapter::new(updates)))
    }
}
