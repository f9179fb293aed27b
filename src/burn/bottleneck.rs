//! The bottleneck adapter (Houlsby et al., 2019) as a burn module.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{AdapterKind, FrozenLinear, LinearUpdate};
use crate::data::random::SplitMix64;

/// `y += up(relu(down(y)))`, behind a layer and before the residual stream. The paper puts it behind
/// the two layers of a block that write there: `o_proj` and `down_proj`.
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// (bottleneck_size, out)
    pub down: Affine,
    /// (out, bottleneck_size)
    pub up: Affine,
}

/// `x weightᵀ + bias`.
#[derive(Module, Debug)]
pub struct Affine {
    /// (out, in)
    pub weight: Param<Tensor<2>>,
    /// (out)
    pub bias: Param<Tensor<1>>,
}

/// Of every layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BottleneckConfig {
    /// Features between `down` and `up`.
    pub bottleneck_size: usize,
}

impl Affine {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}

impl LinearUpdate for Bottleneck {
    fn forward(&self, _: &FrozenLinear, _: &Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        y.clone() + self.up.forward(relu(self.down.forward(y)))
    }
}

impl AdapterKind for Bottleneck {
    const KIND: &'static str = "BOTTLENECK";
    type Config = BottleneckConfig;

    /// `up` is zero, so that nothing changes before the training.
    fn new(layer: &FrozenLinear, config: &BottleneckConfig, random: &mut SplitMix64) -> Self {
        let device = layer.weight.device();
        let [features, _] = layer.weight.dims();
        let size = config.bottleneck_size;
        let bound = 1.0 / (features as f64).sqrt();
        let mut value = || ((2.0 * random.next_f64() - 1.0) * bound) as f32;
        let down: Vec<f32> = (0..size * features).map(|_| value()).collect();
        let down = Tensor::from_data(TensorData::new(down, [size, features]), &device);
        let affine = |weight, bias| Affine {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(bias),
        };
        Self {
            down: affine(down, Tensor::zeros([size], &device)),
            up: affine(
                Tensor::zeros([features, size], &device),
                Tensor::zeros([features], &device),
            ),
        }
    }
}
