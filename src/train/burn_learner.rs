//! Training by burn: its autodiff and its optimizers.

use std::ops::Range;
use std::rc::Rc;

use burn::optim::{AdamConfig, AdamState, AdamWConfig, AdaptiveMomentumState};
use burn::optim::{AdamWState, Optimizer as _};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Gradients, Int, Tensor, TensorData};

use super::config::{AdapterType, Optimizer, TrainConfig};
use super::learner::{Learner, LearnerState, TrainStep};
use super::trainer::Room;
use crate::burn::{
    AdapterKind, BottleneckConfig, BurnAdapter, BurnModel, BurnOps, Device, LinearUpdate,
    LoraConfig, Packed, flat_gradients, flat_parameters, parameter_names, read, with_parameters,
};
use crate::data::batch::Batch;
use crate::data::token::Target;
use crate::kernels::optimizer::Rule;
use crate::model::{Adapter, AnyAdapter, rope_table};
use crate::ops::Ops as _;
use crate::{Error, Result};

/// Bytes of logits that exist at once; autodiff holds a few times that.
const LOGITS_BYTES: usize = 16 << 20;

/// An adapter of any type in training on burn.
///
/// The base is outside of the autodiff graph; blocks below the first adapted one leave no trace in
/// it. Head and cross-entropy are done a chunk of tokens at a time, each chunk's gradient of the
/// final hidden states a constant of what follows.
#[derive(Debug)]
pub struct BurnLearner<A: AdapterKind> {
    model: Rc<BurnModel>,
    config: TrainConfig,
    kind_config: A::Config,
    adapter: Adapter<A>,
    count: usize,
    rope_table: Vec<f32>,
    /// Gradients so far, flat.
    gradients: Tensor<1>,
    moments: Option<[Tensor<1>; 2]>,
    gradient_norm: f32,
    updates: usize,
    history: Vec<[f32; 2]>,
}

impl<A: AdapterKind> BurnLearner<A> {
    /// Trains `adapter`, which `kind_config` made, by the rules of `config` on batches within `room`.
    pub fn new(
        model: &Rc<BurnModel>,
        adapter: Adapter<A>,
        kind_config: A::Config,
        room: Room,
        config: &TrainConfig,
    ) -> Self {
        let updates = adapter.iter().map(|(l, t, update)| ((l, t), update.clone().train()));
        let adapter = Adapter::new(updates);
        let flat = flat_parameters(&adapter);
        let count = flat.iter().map(|tensor| tensor.dims()[0]).sum();
        Self {
            rope_table: rope_table(&model.llama.config, room.positions),
            gradients: Tensor::zeros([count], model.device.burn()),
            model: model.clone(),
            config: config.clone(),
            kind_config,
            adapter,
            count,
            moments: None,
            gradient_norm: 0.0,
            updates: 0,
            history: Vec::new(),
        }
    }

    /// Whether burn trains by the rules of `config`.
    ///
    /// # Errors
    /// [`Error::Invalid`]: what our own kernels alone do.
    pub fn check(config: &TrainConfig) -> Result<()> {
        let needs = |what: &str| Err(Error::invalid(format!("{what} needs --engine wgpu")));
        match config.optimizer {
            Optimizer::Adam | Optimizer::Adamw | Optimizer::Sgd => {}
            other => return needs(&format!("the optimizer {}", other.name())),
        }
        if config.adapter_type == AdapterType::Full {
            return needs("full fine-tuning");
        }
        if config.dropout > 0.0 {
            return needs("dropout");
        }
        match config.modules_to_save.is_empty() {
            true => Ok(()),
            false => needs("modules-to-save"),
        }
    }

    /// The updates as they are now.
    pub fn updates(&self) -> &Adapter<A> {
        &self.adapter
    }

    /// The weighted loss of `batch`, added up, and the gradients of every parameter, flat.
    ///
    /// # Errors
    /// A sequence longer than there is room for; what the device reports.
    pub fn loss_and_gradients(&self, batch: &Batch) -> Result<(Tensor<1>, Tensor<1>)> {
        if self.config.grad_checkpoint {
            return self.block_by_block(batch);
        }
        let (llama, packed) = (&self.model.llama, self.pack(batch)?);
        let mut ops = BurnOps::new(&packed);
        let x = llama.hidden(&mut ops, Some(&BurnAdapter::of(&self.adapter).0))?;
        let (loss, dx) = self.head_gradient(&mut ops, &x, batch)?;
        let gradients = (x * dx).sum().backward();
        Ok((loss, self.flatten(|_| Some(&gradients))))
    }

    /// The same, keeping only each block's input: its graph is made again on the way down.
    fn block_by_block(&self, batch: &Batch) -> Result<(Tensor<1>, Tensor<1>)> {
        let (llama, packed) = (&self.model.llama, self.pack(batch)?);
        let mut ops = BurnOps::new(&packed);
        let trained = BurnAdapter::of(&self.adapter).0;
        let plain = self.plain();
        let mut inputs = Vec::new();
        let mut x = ops.embedding(&llama.embed_tokens, None)?;
        for layer in 0..llama.layers.len() {
            inputs.push(x.clone());
            x = llama.block(&mut ops, layer, x, Some(&plain))?;
        }
        let (loss, mut dy) = self.head_gradient(&mut ops, &x, batch)?;
        let first = self.adapter.first_layer().unwrap_or(inputs.len());
        let mut by_layer: Vec<Option<Gradients>> = inputs.iter().map(|_| None).collect();
        for (layer, input) in inputs.into_iter().enumerate().skip(first).rev() {
            let leaf = input.autodiff().require_grad();
            let y = llama.block(&mut ops, layer, leaf.clone(), Some(&trained))?;
            let gradients = (y * dy).sum().backward();
            dy = leaf.grad(&gradients).unwrap_or_else(|| leaf.inner().zeros_like());
            by_layer[layer] = Some(gradients);
        }
        Ok((loss, self.flatten(|layer| by_layer[layer].as_ref())))
    }

    /// The updates outside of autodiff.
    fn plain(&self) -> Adapter<Rc<dyn LinearUpdate>> {
        let plain = self.adapter.iter().map(|(l, t, update)| ((l, t), update.valid()));
        BurnAdapter::of(&Adapter::new(plain)).0
    }

    /// The loss of the hidden states `x` (T, hidden_size) after the last block, and its gradient.
    fn head_gradient(
        &self,
        ops: &mut BurnOps<'_>,
        x: &Tensor<2>,
        batch: &Batch,
    ) -> Result<(Tensor<1>, Tensor<2>)> {
        let x = x.clone().inner();
        let mut loss = Tensor::zeros([1], self.model.device.burn());
        let mut parts = Vec::new();
        for (rows, targets) in self.chunks(batch) {
            let leaf = x.clone().slice(rows).autodiff().require_grad();
            let part = self.head_losses(ops, &leaf, targets)?.sum();
            let gradients = part.backward();
            loss = loss + part.inner();
            parts.push(leaf.grad(&gradients).unwrap_or_else(|| leaf.inner().zeros_like()));
        }
        Ok((loss, Tensor::cat(parts, 0)))
    }

    /// The weighted cross-entropies of some rows' predictions (rows, 1).
    fn head_losses(
        &self,
        ops: &mut BurnOps<'_>,
        x: &Tensor<2>,
        targets: &[Target],
    ) -> Result<Tensor<2>> {
        let logits = self.model.llama.logits(ops, x, None)?;
        Ok(cross_entropies(&self.model.device, logits, targets))
    }

    /// The rows whose logits are made at once, and their targets.
    fn chunks<'a>(&self, batch: &'a Batch) -> impl Iterator<Item = (Range<usize>, &'a [Target])> {
        let rows = (LOGITS_BYTES / 4 / self.model.llama.config.vocab_size).max(1);
        let targets = batch.targets.chunks(rows);
        (0..).step_by(rows).zip(targets).map(|(first, part)| (first..first + part.len(), part))
    }

    fn pack(&self, batch: &Batch) -> Result<Packed> {
        let head_dim = self.model.llama.config.head_dim;
        Packed::new(&self.model.device, &batch.tokens, &self.rope_table, head_dim)
    }

    /// Gradients in the order of the parameters; `of` has those of a block.
    fn flatten<'a>(&self, of: impl Fn(usize) -> Option<&'a Gradients>) -> Tensor<1> {
        let parts = self
            .adapter
            .iter()
            .filter_map(|(layer, _, update)| Some(flat_gradients(update, of(layer)?)));
        Tensor::cat(parts.flatten().collect(), 0)
    }

    /// One update. Those of Adam and AdamW are burn's.
    fn update(&mut self, gradients: Tensor<1>, learning_rate: f32) {
        let Rule::Sgd(sgd) = self.config.rule() else {
            return self.update_by_adam(gradients, learning_rate);
        };
        let flat = Tensor::cat(flat_parameters(&self.adapter), 0);
        let gradients = gradients + flat.clone() * sgd.weight_decay;
        let velocity = match self.moments.take() {
            Some([velocity, _]) => velocity * sgd.momentum + gradients.clone(),
            None => gradients.clone(),
        };
        let change = match sgd.nesterov {
            true => gradients + velocity.clone() * sgd.momentum,
            false => velocity.clone(),
        };
        let none = Tensor::zeros([0], self.model.device.burn());
        self.moments = (sgd.momentum != 0.0).then_some([velocity, none]);
        self.adapter = with_parameters(&self.adapter, &(flat - change * learning_rate));
    }

    /// One update by burn's Adam or AdamW.
    ///
    /// burn always corrects the moments for starting at zero. Without correction the step is
    /// `lr · m / (√v + eps)`, which is the corrected one with another `lr` and `eps`.
    fn update_by_adam(&mut self, gradients: Tensor<1>, learning_rate: f32) {
        let adam = self.config.adam();
        let time = self.updates.max(1) as i32;
        let first = 1.0 - adam.beta1.powi(time);
        let second = (1.0 - adam.beta2.powi(time)).sqrt();
        let rate = f64::from(learning_rate);
        let (rate, eps, decay) = match self.config.bias_correction {
            true => (rate, adam.eps, adam.weight_decay),
            false => (
                rate * first / second,
                (f64::from(adam.eps) / second) as f32,
                (f64::from(adam.weight_decay) * second / first) as f32,
            ),
        };
        let (beta1, beta2) = (adam.beta1 as f32, adam.beta2 as f32);
        let before = self.moments.take().map(|[first, second]| {
            // burn adds one.
            AdaptiveMomentumState::new(self.updates - 1, first, second)
        });
        let flat = Tensor::cat(flat_parameters(&self.adapter), 0);
        let (flat, momentum) = match self.config.optimizer {
            Optimizer::Adam => {
                let adam = AdamConfig::new().with_beta_1(beta1).with_beta_2(beta2);
                let adam = adam.with_epsilon(eps).build();
                let (flat, state) = adam.step(rate, flat, gradients, before.map(AdamState::new));
                (flat, state.map(|state| state.momentum))
            }
            _ => {
                let adam = AdamWConfig::new().with_beta_1(beta1).with_beta_2(beta2);
                let adam = adam.with_epsilon(eps).with_weight_decay(decay).build();
                let (flat, state) = adam.step(rate, flat, gradients, before.map(AdamWState::new));
                (flat, state.map(|state| state.momentum))
            }
        };
        self.moments = momentum.map(|state| [state.moment_1, state.moment_2]);
        self.adapter = with_parameters(&self.adapter, &flat);
    }

    /// How many values the rule keeps of the past, in both moments.
    fn kept(&self) -> [usize; 2] {
        match self.config.rule() {
            Rule::Sgd(sgd) if sgd.momentum == 0.0 => [0, 0],
            Rule::Sgd(_) => [self.count, 0],
            _ => [self.count; 2],
        }
    }

    fn tensor(&self, values: &[f32]) -> Tensor<1> {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tensor::from_data(data, self.model.device.burn())
    }
}

/// The weighted cross-entropies (rows, 1) of `logits` (rows, vocab_size).
pub(super) fn cross_entropies(device: &Device, logits: Tensor<2>, targets: &[Target]) -> Tensor<2> {
    let ids: Vec<i32> = targets.iter().map(|target| target.id as i32).collect();
    let weights: Vec<f32> = targets.iter().map(|target| -target.weight).collect();
    let sides = [targets.len(), 1];
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, sides), device.burn());
    let weights = Tensor::<2>::from_data(TensorData::new(weights, sides), device.burn());
    log_softmax(logits, 1).gather(1, ids) * weights
}

impl<A: AdapterKind> Learner for BurnLearner<A> {
    fn parameter_count(&self) -> usize {
        self.count
    }

    fn dispatches_per_step(&self) -> Option<usize> {
        None
    }

    async fn train(&mut self, batch: &Batch, step: &TrainStep) -> Result<()> {
        let (loss, gradients) = self.loss_and_gradients(batch)?;
        self.gradients = match step.first {
            true => gradients,
            false => self.gradients.clone() + gradients,
        };
        if step.last {
            let scaled = self.gradients.clone().mul_scalar(step.gradient_scale);
            let norm = read(scaled.clone().square().sum().sqrt()).await?[0];
            self.gradient_norm = norm;
            self.updates = step.updates;
            if norm.is_finite() {
                let clip = self.config.max_grad_norm.filter(|most| norm > *most);
                let scaled = match clip {
                    Some(most) => scaled.mul_scalar(most / norm),
                    None => scaled,
                };
                self.update(scaled, step.learning_rate);
            }
        }
        self.history.truncate(step.slot);
        let loss = match step.loss {
            Some(loss) => loss,
            None => read(loss).await?[0],
        };
        self.history.push([loss, self.gradient_norm]);
        Ok(())
    }

    async fn history(&self, count: usize) -> Result<Vec<[f32; 2]>> {
        Ok(self.history.iter().copied().take(count).collect())
    }

    async fn token_losses(&mut self, batch: &Batch, trained: bool) -> Result<Vec<f32>> {
        let plain = trained.then(|| self.plain());
        let packed = self.pack(batch)?;
        let mut ops = BurnOps::new(&packed);
        let hidden = self.model.llama.hidden(&mut ops, plain.as_ref())?;
        let mut losses = Vec::new();
        for (rows, targets) in self.chunks(batch) {
            let part = self.head_losses(&mut ops, &hidden.clone().slice(rows), targets)?;
            losses.extend(read(part.reshape([-1])).await?);
        }
        Ok(losses)
    }

    async fn loss(&mut self, batches: Vec<Batch>) -> Result<f32> {
        let plain = self.plain();
        let mut sum = 0.0;
        for batch in batches {
            let packed = self.pack(&batch)?;
            let mut ops = BurnOps::new(&packed);
            let hidden = self.model.llama.hidden(&mut ops, Some(&plain))?;
            for (rows, targets) in self.chunks(&batch) {
                let part = self.head_losses(&mut ops, &hidden.clone().slice(rows), targets)?.sum();
                sum += f64::from(read(part).await?[0]);
            }
        }
        Ok(sum as f32)
    }

    async fn state(&self) -> Result<LearnerState> {
        let [first_moments, second_moments] = match &self.moments {
            Some([first, second]) if second.dims()[0] > 0 => {
                [read(first.clone()).await?, read(second.clone()).await?]
            }
            Some([first, _]) => [read(first.clone()).await?, Vec::new()],
            None => self.kept().map(|count| vec![0.0; count]),
        };
        Ok(LearnerState {
            parameters: read(Tensor::cat(flat_parameters(&self.adapter), 0)).await?,
            first_moments,
            second_moments,
            gradients: read(self.gradients.clone()).await?,
            gradient_norm: self.gradient_norm,
            updates: self.updates,
            history: self.history.clone(),
        })
    }

    fn restore(&mut self, state: &LearnerState) -> Result<()> {
        state.check(self.count, self.kept())?;
        self.adapter = with_parameters(&self.adapter, &self.tensor(&state.parameters));
        self.moments = (state.updates > 0 && !state.first_moments.is_empty())
            .then(|| [&state.first_moments, &state.second_moments].map(|m| self.tensor(m)));
        self.gradients = self.tensor(&state.gradients);
        self.gradient_norm = state.gradient_norm;
        self.updates = state.updates;
        self.history = state.history.clone();
        Ok(())
    }

    fn parameter_names(&self) -> Vec<(String, Range<usize>)> {
        let mut end = 0;
        let mut names = Vec::new();
        for (layer, target, update) in self.adapter.iter() {
            for (name, count) in parameter_names(update) {
                let path = target.path();
                names.push((format!("model.layers.{layer}.{path}.{name}"), end..end + count));
                end += count;
            }
        }
        names
    }

    async fn adapter(&self) -> Result<AnyAdapter> {
        A::save(&self.adapter, &self.kind_config).await
    }
}

impl From<&TrainConfig> for LoraConfig {
    fn from(config: &TrainConfig) -> Self {
        Self { rank: config.rank, scale: config.update_scale() }
    }
}

impl From<&TrainConfig> for BottleneckConfig {
    fn from(config: &TrainConfig) -> Self {
        Self { bottleneck_size: config.rank }
    }
}
