//! What to train and how, with MLX-LM's names and the original experiment's defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::schedule::{Course, LrSchedule};
use crate::data::batch::{BatchConfig, Semantics};
use crate::data::tokens::LossOn;
use crate::kernels::adafactor::Adafactor;
use crate::kernels::adam::Adam;
use crate::kernels::muon::Muon;
use crate::kernels::optimizer::Rule;
use crate::kernels::sgd::Sgd;
use crate::model::{AdapterTensors, ModelConfig, Target};
use crate::{Error, Result};

/// The optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam (Kingma and Ba, 2015).
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    Adamw,
    /// Gradient descent, with momentum if that is set.
    Sgd,
    /// Adafactor (Shazeer and Stern, 2018); our kernels do it.
    Adafactor,
    /// Muon (Jordan et al., 2024); our kernels do it.
    Muon,
}

impl Optimizer {
    /// Every optimizer.
    pub const ALL: [Optimizer; 5] =
        [Optimizer::Adam, Optimizer::Adamw, Optimizer::Sgd, Optimizer::Adafactor, Optimizer::Muon];

    /// As a config file has it.
    pub fn name(self) -> &'static str {
        match self {
            Optimizer::Adam => "adam",
            Optimizer::Adamw => "adamw",
            Optimizer::Sgd => "sgd",
            Optimizer::Adafactor => "adafactor",
            Optimizer::Muon => "muon",
        }
    }
}

/// What a run learns from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainMode {
    /// Supervised fine-tuning: texts and answers.
    #[default]
    Sft,
    /// Direct preference optimisation (Rafailov et al., 2023): pairs of a chosen and a rejected answer.
    Dpo,
}

/// What an adapter adds to a linear layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterType {
    /// LoRA (Hu et al., 2021).
    #[default]
    Lora,
    /// LoRA whose scale is multiplied by √rank (Kalajdzievski, 2023), which is PEFT's
    /// `lora_alpha / √r`.
    Rslora,
    /// DoRA (Liu et al., 2024).
    Dora,
    /// A bottleneck behind the layer (Houlsby et al., 2019), `rank` features wide; burn trains it.
    Bottleneck,
    /// None: every weight of the blocks themselves is trained; our kernels do it.
    Full,
}

/// A training run. Every field counts; none is ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// Whose rules for data order, targets and weighting.
    pub semantics: Semantics,
    /// What it learns from.
    #[serde(default)]
    pub train_mode: TrainMode,
    /// How far DPO lets the model move from what it was: the larger, the less.
    #[serde(default = "beta")]
    pub beta: f32,
    /// What is trained.
    #[serde(default)]
    pub adapter_type: AdapterType,
    /// Columns of each `lora_a`; features of a bottleneck.
    pub rank: usize,
    /// Multiplies the update, used as it is (PEFT's `lora_alpha / r`).
    pub scale: f32,
    /// The probability of what an update gets of its layer's input to be 0 in training.
    #[serde(default)]
    pub dropout: f32,
    /// Blocks that are adapted, counted from the last; −1 is all.
    pub num_layers: i64,
    /// Linear layers that are adapted: regular expressions that match the end of a path such as
    /// `model.layers.29.self_attn.q_proj` from a dot on, as plain names do.
    pub keys: Vec<String>,
    /// Ranks of linear layers that have another than `rank`, by patterns such as those of `keys`.
    #[serde(default)]
    pub rank_pattern: BTreeMap<String, usize>,
    /// PEFT's `lora_alpha` of linear layers that have another than `scale · rank`. It is divided by a
    /// layer's own rank, or with rsLoRA by its root.
    #[serde(default)]
    pub alpha_pattern: BTreeMap<String, f32>,
    /// Modules whose weights are trained themselves and saved with the adapter, by the ends of their
    /// paths as in PEFT: `embed_tokens`, `lm_head`, `norm`, `layers.29.mlp.up_proj`.
    #[serde(default)]
    pub modules_to_save: Vec<String>,
    /// Sequences a batch.
    pub batch_size: usize,
    /// Batches to train on.
    pub iters: usize,
    /// Step size.
    pub learning_rate: f32,
    /// How the step size changes in the run; not at all if there is none.
    #[serde(default)]
    pub lr_schedule: Option<LrSchedule>,
    /// The update rule.
    pub optimizer: Optimizer,
    /// The decay of the parameters; Adam has none.
    pub weight_decay: f32,
    /// Adam's decays of both moments.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// What Adam adds to the root of the second moment.
    #[serde(default = "eps")]
    pub eps: f32,
    /// SGD's and Muon's; none is MLX's default, 0 and 0.95.
    #[serde(default)]
    pub momentum: Option<f32>,
    /// Whether SGD's and Muon's momentum is Nesterov's; none is MLX's default, no and yes.
    #[serde(default)]
    pub nesterov: Option<bool>,
    /// Whether Adafactor takes step sizes of its own, and not the learning rate.
    #[serde(default = "yes")]
    pub relative_step: bool,
    /// Whether Adafactor's steps are as large as the parameters are.
    #[serde(default = "yes")]
    pub scale_parameter: bool,
    /// Whether Adam's moments are corrected for starting at zero. MLX's are not.
    pub bias_correction: bool,
    /// Gradients of a larger norm are scaled down to it.
    pub max_grad_norm: Option<f32>,
    /// Batches whose gradients make one update.
    pub grad_accumulation_steps: usize,
    /// Keeps only each block's input and computes the rest again in the backward.
    pub grad_checkpoint: bool,
    /// Counts the loss of answers alone.
    pub mask_prompt: bool,
    /// Counts the loss of every message of the assistant, and of nothing else.
    #[serde(default)]
    pub assistant_only_loss: bool,
    /// Most tokens of a sequence.
    pub max_seq_length: usize,
    /// Iterations between reports of the training loss.
    pub steps_per_report: usize,
    /// Iterations between validations.
    pub steps_per_eval: usize,
    /// Batches of a validation; −1 is all.
    pub val_batches: i64,
    /// The same seed gives the same initial adapter and the same order of batches.
    pub seed: u64,
}

impl Default for TrainConfig {
    /// The original experiment's settings, with Adam's bias correction and true token weighting.
    fn default() -> Self {
        Self {
            semantics: Semantics::Engram,
            train_mode: TrainMode::Sft,
            beta: beta(),
            adapter_type: AdapterType::Lora,
            rank: 8,
            scale: 20.0,
            dropout: 0.0,
            num_layers: 16,
            keys: Target::ALL.iter().map(|t| t.path().to_owned()).collect(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: Vec::new(),
            batch_size: 4,
            iters: 100,
            learning_rate: 1e-5,
            optimizer: Optimizer::Adam,
            weight_decay: 0.0,
            lr_schedule: None,
            betas: betas(),
            eps: eps(),
            momentum: None,
            nesterov: None,
            relative_step: true,
            scale_parameter: true,
            bias_correction: true,
            max_grad_norm: None,
            grad_accumulation_steps: 1,
            grad_checkpoint: false,
            mask_prompt: false,
            assistant_only_loss: false,
            max_seq_length: 2048,
            steps_per_report: 10,
            steps_per_eval: 50,
            val_batches: -1,
            seed: 0,
        }
    }
}

impl TrainConfig {
    /// # Errors
    /// [`Error::Invalid`] naming the first setting that can't be used.
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("rank", self.rank),
            ("batch-size", self.batch_size),
            ("iters", self.iters),
            ("grad-accumulation-steps", self.grad_accumulation_steps),
            ("steps-per-report", self.steps_per_report),
            ("steps-per-eval", self.steps_per_eval),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("{name} is 0; it is at least 1")));
        }
        if let Some((name, value)) = positive.iter().find(|(_, v)| u32::try_from(*v).is_err()) {
            return Err(Error::invalid(format!("{name} is {value}; it is at most {}", u32::MAX)));
        }
        let finite = [
            ("scale", self.scale),
            ("learning-rate", self.learning_rate),
            ("weight-decay", self.weight_decay),
            ("max-grad-norm", self.max_grad_norm.unwrap_or(1.0)),
            ("eps", self.eps),
            ("beta", self.beta),
            ("momentum", self.momentum.unwrap_or(0.0)),
        ];
        if let Some((name, value)) = finite.iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
            return Err(Error::invalid(format!("{name} is {value}; it is a number from 0 up")));
        }
        if self.optimizer == Optimizer::Adam && self.weight_decay != 0.0 {
            return Err(Error::invalid("adam has no weight decay; use --optimizer adamw"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(format!(
                "dropout is {}; it is from 0 to below 1",
                self.dropout
            )));
        }
        if self.adapter_type == AdapterType::Full && self.dropout > 0.0 {
            return Err(Error::invalid("dropout is an adapter's; full fine-tuning has none"));
        }
        if let Some(beta) = self.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return Err(Error::invalid(format!("a beta is {beta}; it is from 0 to below 1")));
        }
        self.check_of_others()?;
        if let Some(schedule) = &self.lr_schedule {
            schedule.check()?;
        }
        if self.train_mode == TrainMode::Dpo {
            if self.mask_prompt || self.assistant_only_loss {
                return Err(Error::invalid(
                    "dpo counts the last messages alone; leave out mask-prompt and \
                     assistant-only-loss",
                ));
            }
            if self.semantics == Semantics::Mlx {
                return Err(Error::invalid("MLX-LM has no dpo; leave out semantics mlx"));
            }
            // What is dropped would differ between telling a pair apart and learning from it.
            if self.dropout > 0.0 {
                return Err(Error::invalid("dpo is without dropout, as TRL's; leave it out"));
            }
        }
        if self.mask_prompt && self.assistant_only_loss {
            return Err(Error::invalid(
                "mask-prompt trains on the last message alone, assistant-only-loss on every one of \
                 the assistant's; leave one of them out",
            ));
        }
        if self.num_layers < -1 || self.num_layers == 0 {
            let n = self.num_layers;
            return Err(Error::invalid(format!(
                "num-layers is {n}; it is at least 1, or -1 for all"
            )));
        }
        if self.val_batches < -1 {
            return Err(Error::invalid("val-batches is at least 0, or -1 for all"));
        }
        self.check_patterns()?;
        self.patterns().map(|_| ())
    }

    /// Refuses settings of another optimizer.
    fn check_of_others(&self) -> Result<()> {
        let default = Self::default();
        let is_adam = matches!(self.optimizer, Optimizer::Adam | Optimizer::Adamw);
        let has_momentum = matches!(self.optimizer, Optimizer::Sgd | Optimizer::Muon);
        let is_adafactor = self.optimizer == Optimizer::Adafactor;
        let others = [
            ("betas", is_adam, self.betas != default.betas),
            ("eps", is_adam, self.eps != default.eps),
            ("momentum", has_momentum, self.momentum.is_some()),
            ("nesterov", has_momentum, self.nesterov.is_some()),
            ("relative-step", is_adafactor, !self.relative_step),
            ("scale-parameter", is_adafactor, !self.scale_parameter),
        ];
        if let Some((name, ..)) = others.iter().find(|(_, has, is_set)| *is_set && !has) {
            let optimizer = self.optimizer.name();
            return Err(Error::invalid(format!("{optimizer} has no {name}; leave it out")));
        }
        let no_momentum = self.optimizer == Optimizer::Sgd && self.momentum.unwrap_or(0.0) == 0.0;
        if no_momentum && self.nesterov == Some(true) {
            return Err(Error::invalid("nesterov needs a momentum above 0"));
        }
        match self.momentum {
            Some(momentum) if momentum >= 1.0 => {
                Err(Error::invalid(format!("momentum is {momentum}; it is below 1")))
            }
            _ => Ok(()),
        }
    }

    /// The adapted blocks of a model.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the model has fewer.
    pub fn layers(&self, model: &ModelConfig) -> Result<std::ops::Range<usize>> {
        let blocks = model.num_hidden_layers;
        let count = usize::try_from(self.num_layers).unwrap_or(blocks);
        if count > blocks {
            return Err(Error::invalid(format!("num-layers is {count}, the model has {blocks}")));
        }
        Ok(blocks - count..blocks)
    }

    /// Whether a model of that shape can be trained so.
    ///
    /// # Errors
    /// [`Error::Invalid`]: more blocks than there are, a rank above the hidden size.
    pub fn check_model(&self, model: &ModelConfig) -> Result<()> {
        match self.adapter_type {
            AdapterType::Full => self.layers(model).map(|_| ())?,
            _ => {
                let ranks = self.settings(model)?;
                let largest = ranks.into_iter().max_by_key(|(_, (rank, _))| *rank);
                if let Some(((layer, target), (rank, _))) = largest
                    && rank > model.hidden_size
                    && rank != self.rank
                {
                    return Err(Error::invalid(format!(
                        "rank-pattern gives layer {layer}'s {} the rank {rank}; it is at most the \
                         model's hidden size, {}",
                        target.path(),
                        model.hidden_size
                    )));
                }
            }
        }
        let chosen = |key: &String| model.weight_names().any(|name| is_of(&name, key));
        if let Some(key) = self.modules_to_save.iter().find(|key| !chosen(key)) {
            return Err(Error::invalid(format!(
                "modules-to-save: the model has no module `{key}` with weights of its own"
            )));
        }
        match self.rank <= model.hidden_size {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "the rank is {}; it must be between 1 and the model's hidden size, {}",
                self.rank, model.hidden_size
            ))),
        }
    }

    /// The iterations of `epochs` passes over data of so many batches.
    ///
    /// # Errors
    /// None, or more than can be counted.
    pub fn iters_of(epochs: usize, batches: usize) -> Result<usize> {
        let iters = epochs.checked_mul(batches).filter(|&iters| u32::try_from(iters).is_ok());
        iters.filter(|&iters| iters > 0).ok_or_else(|| {
            Error::invalid(format!(
                "epochs is {epochs}, of {batches} iterations each; it is at least 1, and all of them \
                 at most {}",
                u32::MAX
            ))
        })
    }

    /// What a run of it starts from: random `lora_a`, zero `lora_b`.
    ///
    /// # Errors
    /// Keys or blocks that the model does not have.
    pub fn initial_adapter(&self, model: &ModelConfig) -> Result<AdapterTensors> {
        if self.adapter_type == AdapterType::Full {
            return Ok(AdapterTensors::new([]));
        }
        let of =
            |(place, (rank, scale))| (place, (rank, self.of_layer((rank, scale)).update_scale()));
        let places = self.settings(model)?.into_iter().map(of).collect();
        AdapterTensors::init_on(model, &places, self.seed)
    }

    /// Whether a weight of a model with blocks `layers` to train is trained itself, by its name.
    pub fn trains_weight(&self, layers: &std::ops::Range<usize>, name: &str) -> bool {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let layer = layer.and_then(|(layer, _)| layer.parse().ok());
        let whole = self.adapter_type == AdapterType::Full;
        whole && layer.is_some_and(|layer| layers.contains(&layer))
            || self.modules_to_save.iter().any(|key| is_of(name, key))
    }

    /// What an update is multiplied by.
    pub fn update_scale(&self) -> f32 {
        match self.adapter_type {
            AdapterType::Rslora => self.scale * (self.rank as f32).sqrt(),
            _ => self.scale,
        }
    }

    /// What of an example carries loss.
    pub fn loss_on(&self) -> LossOn {
        if self.train_mode == TrainMode::Dpo {
            return LossOn::Preference;
        }
        match (self.mask_prompt, self.assistant_only_loss) {
            (true, _) => LossOn::LastMessage,
            (_, true) => LossOn::Assistant,
            _ => LossOn::Everything,
        }
    }

    /// How its batches are made.
    pub fn batch_config(&self) -> BatchConfig {
        BatchConfig {
            semantics: self.semantics,
            batch_size: self.batch_size,
            max_seq_length: self.max_seq_length,
            seed: self.seed,
        }
    }

    /// Adam's constants.
    pub fn adam(&self) -> Adam {
        let [beta1, beta2] = self.betas;
        Adam { beta1, beta2, eps: self.eps, weight_decay: self.weight_decay }
    }

    /// The update rule with its constants, MLX's where none are set.
    pub fn rule(&self) -> Rule {
        let weight_decay = self.weight_decay;
        let momentum = |default| self.momentum.unwrap_or(default);
        let nesterov = |default| self.nesterov.unwrap_or(default);
        match self.optimizer {
            Optimizer::Adam | Optimizer::Adamw => Rule::Adam(self.adam()),
            Optimizer::Sgd => {
                Rule::Sgd(Sgd { momentum: momentum(0.0), nesterov: nesterov(false), weight_decay })
            }
            Optimizer::Adafactor => Rule::Adafactor(Adafactor {
                weight_decay,
                relative_step: self.relative_step,
                scale_parameter: self.scale_parameter,
                ..Adafactor::default()
            }),
            Optimizer::Muon => Rule::Muon(Muon {
                momentum: momentum(0.95),
                nesterov: nesterov(true),
                weight_decay,
                ns_steps: 5,
            }),
        }
    }

    /// The step size of an update, counted from 0.
    pub fn rate(&self, update: usize) -> f32 {
        let updates = self.iters / self.grad_accumulation_steps.max(1);
        let course = Course { learning_rate: f64::from(self.learning_rate), updates };
        let scheduled = self.lr_schedule.as_ref().map(|schedule| schedule.rate(update, course));
        scheduled.map_or(self.learning_rate, |rate| rate as f32)
    }
}

fn beta() -> f32 {
    0.1
}

fn betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn eps() -> f32 {
    1e-8
}

fn yes() -> bool {
    true
}

/// Whether a weight is of the module whose path is `key` or ends in it.
fn is_of(weight: &str, key: &str) -> bool {
    let module = weight.rsplit_once('.').map_or(weight, |(module, _)| module);
    module.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn settings_of_another_optimizer_are_refused() {
        let base = TrainConfig::default;
        let sgd = || TrainConfig { optimizer: Optimizer::Sgd, ..base() };
        for (config, expected) in [
            (TrainConfig { momentum: Some(0.9), ..base() }, "adam has no momentum"),
            (TrainConfig { betas: [0.9, 0.99], ..sgd() }, "sgd has no betas"),
            (TrainConfig { relative_step: false, ..sgd() }, "sgd has no relative-step"),
            (TrainConfig { nesterov: Some(true), ..sgd() }, "nesterov needs a momentum"),
            (TrainConfig { momentum: Some(1.0), ..sgd() }, "momentum is 1; it is below 1"),
            (TrainConfig { betas: [0.9, 1.0], ..base() }, "a beta is 1"),
            (TrainConfig { dropout: 1.0, ..base() }, "dropout is 1"),
            (
                TrainConfig { dropout: 0.1, adapter_type: AdapterType::Full, ..base() },
                "full fine-tuning has none",
            ),
            (
                TrainConfig { dropout: 0.1, train_mode: TrainMode::Dpo, ..base() },
                "dpo is without dropout",
            ),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
