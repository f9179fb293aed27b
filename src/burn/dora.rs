//! DoRA (Liu et al., 2024) as a burn module, computed as PEFT does.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};

use super::adapter::updates_alone;
use super::{AdapterKind, BurnModel, FrozenLinear, LinearUpdate, LoraConfig, LoraModule, read};
use crate::data::random::SplitMix64;
use crate::model::{Adapter, AnyAdapter};
use crate::{Error, Result};

/// The updated weight `W + scale · (A B)ᵀ` with its rows scaled to the lengths `magnitude`.
#[derive(Module, Debug)]
pub struct DoraModule {
    /// The direction.
    pub lora: LoraModule,
    /// (out)
    pub magnitude: Param<Tensor<1>>,
}

impl DoraModule {
    /// The lengths of the updated weight's rows, (out). They are a constant to the backward, as the
    /// paper has it (section 4.3).
    fn lengths(lora: &LoraModule, layer: &FrozenLinear) -> Tensor<1> {
        let update = lora.a.val().inner().matmul(lora.b.val().inner()).mul_scalar(lora.scale);
        let updated = layer.weight.clone() + update.transpose();
        updated.square().sum_dim(1).sqrt().squeeze_dim(1)
    }
}

impl LinearUpdate for DoraModule {
    fn forward(&self, layer: &FrozenLinear, x: &Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        let ratio = (self.magnitude.val() / Self::lengths(&self.lora, layer)).unsqueeze();
        // The bias is not scaled.
        match &layer.bias {
            None => (y + self.lora.low_rank(x)) * ratio,
            Some(bias) => {
                let bias: Tensor<2> = bias.clone().unsqueeze();
                (y - bias.clone() + self.lora.low_rank(x)) * ratio + bias
            }
        }
    }
}

impl AdapterKind for DoraModule {
    const KIND: &'static str = "LORA";
    type Config = LoraConfig;

    /// As a LoRA, and the magnitude of each row its own length.
    fn new(layer: &FrozenLinear, config: &LoraConfig, random: &mut SplitMix64) -> Self {
        let lora = LoraModule::new(layer, config, random);
        let magnitude = Param::from_tensor(Self::lengths(&lora, layer));
        Self { lora, magnitude }
    }

    fn load(model: &BurnModel, name: &str, adapter: &AnyAdapter) -> Result<Adapter<Self>> {
        let tensors = updates_alone(name, adapter)?;
        tensors.check(name, &model.llama.config)?;
        let device = model.device.burn();
        let mut updates = Vec::new();
        for (layer, target, lora) in tensors.iter() {
            let Some(magnitude) = &lora.magnitude else {
                return Err(Error::format(name, "is a LoRA adapter, not a DoRA one"));
            };
            let data = TensorData::new(magnitude.clone(), [magnitude.len()]);
            let magnitude = Param::from_tensor(Tensor::from_data(data, device));
            let lora = LoraModule::from_update(lora, device);
            updates.push(((layer, target), Self { lora, magnitude }));
        }
        Ok(Adapter::new(updates))
    }

    async fn save(adapter: &Adapter<Self>, _: &LoraConfig) -> Result<AnyAdapter> {
        let mut updates = Vec::new();
        for (layer, target, module) in adapter.iter() {
            let mut lora = module.lora.to_update().await?;
            lora.magnitude = Some(read(module.magnitude.val().inner()).await?);
            updates.push(((layer, target), lora));
        }
        Ok(AnyAdapter::Lora(Adapter::new(updates)))
    }
}
