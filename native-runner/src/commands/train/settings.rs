//! The training settings on the command line.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use engram::data::batch;
use engram::train::{AdapterType, LrSchedule, Optimizer, ScheduleName, TrainConfig, TrainMode};

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Semantics {
    /// Ours: shuffled examples, true token weighting, Adam with bias correction
    Engram,
    /// MLX-LM's, loss for loss
    Mlx,
}

/// `--train-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Texts and answers
    Sft,
    /// Pairs of a chosen and a rejected answer
    Dpo,
}

/// `--adapter-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Type {
    /// A low-rank update
    Lora,
    /// LoRA whose scale is multiplied by the root of the rank
    Rslora,
    /// LoRA that turns rows and scales them apart
    Dora,
    /// A small network behind a layer; needs --engine burn
    Bottleneck,
    /// Nothing: every weight of the blocks is trained itself, in f32; needs --engine wgpu
    Full,
}

impl From<Type> for AdapterType {
    fn from(kind: Type) -> Self {
        match kind {
            Type::Lora => Self::Lora,
            Type::Rslora => Self::Rslora,
            Type::Dora => Self::Dora,
            Type::Bottleneck => Self::Bottleneck,
            Type::Full => Self::Full,
        }
    }
}

/// Settings that a checkpoint keeps; what is not given is the original experiment's, or the
/// checkpoint's with `--resume`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Training")]
pub struct Settings {
    /// Whose rules for data order, targets, weighting and Adam [default: engram]
    #[arg(long)]
    pub semantics: Option<Semantics>,
    /// What is learned from: answers (sft), or which of two answers is preferred (dpo) [default: sft]
    #[arg(long, value_name = "MODE")]
    pub train_mode: Option<Mode>,
    /// How far dpo lets the model move from what it was; the larger, the less [default: 0.1]
    #[arg(long)]
    pub beta: Option<f32>,
    /// Batches to train on [default: 100]
    #[arg(long)]
    pub iters: Option<usize>,
    /// Passes over the training data, instead of --iters
    #[arg(long, conflicts_with = "iters")]
    pub epochs: Option<usize>,
    /// Sequences in a batch [default: 4]
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Step size [default: 1e-5]
    #[arg(long)]
    pub learning_rate: Option<f32>,
    /// What is added to a linear layer [default: lora]
    #[arg(long, alias = "fine-tune-type")]
    pub adapter_type: Option<Type>,
    /// Rank of the adapter; the bottleneck's size [default: 8]
    #[arg(long)]
    pub rank: Option<usize>,
    /// Scale of the adapter; PEFT's alpha / rank [default: 20]
    #[arg(long)]
    pub scale: Option<f32>,
    /// Probability of what an adapter gets of its layer's input to be 0 in training [default: 0]
    #[arg(long)]
    pub dropout: Option<f32>,
    /// Blocks to adapt, from the last; -1 is all [default: 16]
    #[arg(long, allow_negative_numbers = true)]
    pub num_layers: Option<i64>,
    /// Linear layers to adapt: names such as q_proj,v_proj, or patterns of their paths' ends, such as
    /// 'layers\.2[0-9]\.mlp\..*' [default: all seven]
    #[arg(long, value_delimiter = ',')]
    pub keys: Option<Vec<String>>,
    /// Rank of the layers that a pattern as of --keys matches, where it is another; may be repeated
    #[arg(long, value_name = "PATTERN=RANK")]
    pub rank_pattern: Option<Vec<Rule<usize>>>,
    /// PEFT's lora_alpha of such layers, divided by their rank; may be repeated [default: scale · rank]
    #[arg(long, value_name = "PATTERN=ALPHA")]
    pub alpha_pattern: Option<Vec<Rule<f32>>>,
    /// Modules to train whole and save beside the adapter, such as embed_tokens,lm_head,norm
    #[arg(long, value_delimiter = ',')]
    pub modules_to_save: Option<Vec<String>>,
    /// How the step size changes: constant, linear_schedule, cosine_decay, exponential_decay or
    /// step_decay
    #[arg(long, value_name = "NAME", value_parser = parse_schedule)]
    pub lr_schedule: Option<ScheduleName>,
    /// The schedule's arguments, as mlx.optimizers has them [default: from the learning rate to 0]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', requires = "lr_schedule")]
    pub lr_schedule_arguments: Option<Vec<f64>>,
    /// Updates in which the step size rises to its first [default: 0]
    #[arg(long, value_name = "UPDATES")]
    pub warmup: Option<usize>,
    /// Step size that the warm-up begins with [default: 0]
    #[arg(long, value_name = "RATE", requires = "warmup")]
    pub warmup_init: Option<f64>,
    /// adam, adamw, sgd, adafactor or muon [default: adam]
    #[arg(long, value_parser = parse_optimizer)]
    pub optimizer: Option<Optimizer>,
    /// Decay of the parameters [default: adamw, muon: 0.01]
    #[arg(long)]
    pub weight_decay: Option<f32>,
    /// Adam's decays of both moments [default: 0.9,0.999]
    #[arg(long, value_delimiter = ',')]
    pub betas: Option<Vec<f64>>,
    /// Added to the root of Adam's second moment [default: 1e-8]
    #[arg(long)]
    pub eps: Option<f32>,
    /// Momentum of sgd and muon [default: 0, muon: 0.95]
    #[arg(long)]
    pub momentum: Option<f32>,
    /// Whether that is Nesterov's [default: false, muon: true]
    #[arg(long)]
    pub nesterov: Option<bool>,
    /// Whether adafactor takes step sizes of its own, not the learning rate [default: true]
    #[arg(long)]
    pub relative_step: Option<bool>,
    /// Whether adafactor's steps are as large as the parameters are [default: true]
    #[arg(long)]
    pub scale_parameter: Option<bool>,
    /// Whether Adam's moments are corrected for starting at zero [default: true; mlx: false]
    #[arg(long)]
    pub bias_correction: Option<bool>,
    /// Scale gradients of a larger norm down to this
    #[arg(long)]
    pub max_grad_norm: Option<f32>,
    /// Batches whose gradients make one update [default: 1]
    #[arg(long)]
    pub grad_accumulation_steps: Option<usize>,
    /// Keep only the input of each block and compute the rest again: less memory, more time
    #[arg(long)]
    pub grad_checkpoint: bool,
    /// Count the loss of answers alone: of each record's last message
    #[arg(long)]
    pub mask_prompt: bool,
    /// Count the loss of every message of the assistant, and nothing else
    #[arg(long, conflicts_with = "mask_prompt")]
    pub assistant_only_loss: bool,
    /// Cut longer examples [default: 2048]
    #[arg(long)]
    pub max_seq_length: Option<usize>,
    /// Iterations between reports of the training loss [default: 10]
    #[arg(long)]
    pub steps_per_report: Option<usize>,
    /// Iterations between validations [default: 50]
    #[arg(long)]
    pub steps_per_eval: Option<usize>,
    /// Batches of a validation; -1 is all, 0 none [default: -1]
    #[arg(long, allow_negative_numbers = true)]
    pub val_batches: Option<i64>,
    /// Gives the initial adapter and the order of the data [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// A value for the layers that a pattern matches, as people write it: `q_proj=16`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule<T> {
    pattern: String,
    value: T,
}

impl<T: FromStr> FromStr for Rule<T> {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write a pattern and a number, as q_proj=16";
        let (pattern, value) = text.rsplit_once('=').ok_or(FORM)?;
        let value = value.parse().map_err(|_| FORM)?;
        if pattern.is_empty() {
            return Err(FORM);
        }
        Ok(Self { pattern: pattern.to_owned(), value })
    }
}

fn map_of<T: Clone>(rules: &[Rule<T>]) -> BTreeMap<String, T> {
    rules.iter().map(|rule| (rule.pattern.clone(), rule.value.clone())).collect()
}

fn parse_optimizer(text: &str) -> Result<Optimizer, String> {
    let known = || Optimizer::ALL.map(Optimizer::name).join(", ");
    let found = Optimizer::ALL.into_iter().find(|optimizer| optimizer.name() == text);
    found.ok_or_else(|| format!("there are {}", known()))
}

fn parse_schedule(text: &str) -> Result<ScheduleName, String> {
    let known = || ScheduleName::ALL.map(ScheduleName::name).join(", ");
    let found = ScheduleName::ALL.into_iter().find(|schedule| schedule.name() == text);
    found.ok_or_else(|| format!("there are {}", known()))
}

impl Settings {
    /// The settings of a new run.
    pub fn config(&self) -> Result<TrainConfig> {
        let mut config = TrainConfig::default();
        if self.adapter_type == Some(Type::Bottleneck) {
            ensure!(self.scale.is_none(), "--scale is LoRA's; a bottleneck adapter has none");
            // Where the paper puts it.
            config.keys = ["self_attn.o_proj", "mlp.down_proj"].map(str::to_owned).into();
        }
        if self.adapter_type == Some(Type::Full) {
            let given = [
                self.rank.is_some(),
                self.scale.is_some(),
                self.keys.is_some(),
                self.dropout.is_some(),
            ];
            let flags = ["--rank", "--scale", "--keys", "--dropout"];
            if let Some((flag, _)) = flags.iter().zip(given).find(|(_, given)| *given) {
                bail!("{flag} is an adapter's; full fine-tuning trains the blocks themselves");
            }
        }
        ensure!(
            self.betas.as_ref().is_none_or(|betas| betas.len() == 2),
            "--betas are two numbers, as 0.9,0.999"
        );
        if self.semantics == Some(Semantics::Mlx) {
            config.bias_correction = false;
        }
        if matches!(self.optimizer, Some(Optimizer::Adamw | Optimizer::Muon)) {
            config.weight_decay = 0.01;
        }
        if let (Some(rate), Some([first, ..])) =
            (self.learning_rate, self.lr_schedule_arguments.as_deref())
        {
            ensure!(
                rate == *first as f32,
                "--learning-rate is {rate}, the schedule begins with {first}; leave one of them out"
            );
        }
        if self.train_mode != Some(Mode::Dpo) {
            ensure!(self.beta.is_none(), "--beta is dpo's; add --train-mode dpo");
        }
        if let Some(optimizer) = self.optimizer
            && !matches!(optimizer, Optimizer::Adam | Optimizer::Adamw)
            && self.bias_correction.is_some()
        {
            bail!("--bias-correction is of adam and adamw; {} has none", optimizer.name());
        }
        if self.optimizer == Some(Optimizer::Adafactor) && self.relative_step != Some(false) {
            let given = self.learning_rate.is_some() || self.lr_schedule.is_some();
            ensure!(
                !given && self.warmup.is_none(),
                "adafactor takes step sizes of its own; say --relative-step false, or leave out \
                 --learning-rate and its schedule"
            );
        }
        if let Some(betas) = &self.betas {
            ensure!(betas.len() == 2, "--betas takes two numbers, as 0.9,0.999");
        }
        Ok(self.put_over(config))
    }

    /// The settings of a run that goes on: its own, with another number of iterations if given.
    pub fn resumed(&self, saved: &TrainConfig) -> Result<TrainConfig> {
        let config = self.put_over(saved.clone());
        let same = TrainConfig { iters: saved.iters, ..config.clone() } == *saved;
        ensure!(
            same,
            "--resume keeps the settings of the run; only --iters can change, start a new run for others"
        );
        Ok(config)
    }

    fn schedule(&self) -> Option<LrSchedule> {
        let warmup = self.warmup.unwrap_or(0);
        // A warm-up alone is one to a constant rate.
        let name = self.lr_schedule.or((warmup > 0).then_some(ScheduleName::Constant))?;
        Some(LrSchedule {
            name,
            arguments: self.lr_schedule_arguments.clone().unwrap_or_default(),
            warmup,
            warmup_init: self.warmup_init.unwrap_or(0.0),
        })
    }

    fn put_over(&self, mut config: TrainConfig) -> TrainConfig {
        fn put<T: Clone>(into: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *into = value.clone();
            }
        }
        if let Some(semantics) = self.semantics {
            config.semantics = match semantics {
                Semantics::Engram => batch::Semantics::Engram,
                Semantics::Mlx => batch::Semantics::Mlx,
            };
        }
        if let Some(mode) = self.train_mode {
            config.train_mode = match mode {
                Mode::Sft => TrainMode::Sft,
                Mode::Dpo => TrainMode::Dpo,
            };
        }
        put(&mut config.beta, &self.beta);
        put(&mut config.iters, &self.iters);
        put(&mut config.batch_size, &self.batch_size);
        put(&mut config.learning_rate, &self.learning_rate);
        put(&mut config.adapter_type, &self.adapter_type.map(Into::into));
        put(&mut config.rank, &self.rank);
        put(&mut config.scale, &self.scale);
        put(&mut config.dropout, &self.dropout);
        put(&mut config.num_layers, &self.num_layers);
        put(&mut config.keys, &self.keys);
        put(&mut config.rank_pattern, &self.rank_pattern.as_deref().map(map_of));
        put(&mut config.alpha_pattern, &self.alpha_pattern.as_deref().map(map_of));
        put(&mut config.modules_to_save, &self.modules_to_save);
        put(&mut config.optimizer, &self.optimizer);
        put(&mut config.weight_decay, &self.weight_decay);
        if let Some([first, second]) = self.betas.as_deref() {
            config.betas = [*first, *second];
        }
        put(&mut config.eps, &self.eps);
        config.momentum = self.momentum.or(config.momentum);
        config.nesterov = self.nesterov.or(config.nesterov);
        put(&mut config.relative_step, &self.relative_step);
        put(&mut config.scale_parameter, &self.scale_parameter);
        config.lr_schedule = self.schedule().or(config.lr_schedule);
        put(&mut config.bias_correction, &self.bias_correction);
        if self.max_grad_norm.is_some() {
            config.max_grad_norm = self.max_grad_norm;
        }
        put(&mut config.grad_accumulation_steps, &self.grad_accumulation_steps);
        config.grad_checkpoint |= self.grad_checkpoint;
        config.mask_prompt |= self.mask_prompt;
        config.assistant_only_loss |= self.assistant_only_loss;
        put(&mut config.max_seq_length, &self.max_seq_length);
        put(&mut config.steps_per_report, &self.steps_per_report);
        put(&mut config.steps_per_eval, &self.steps_per_eval);
        put(&mut config.val_batches, &self.val_batches);
        put(&mut config.seed, &self.seed);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mlx_has_no_bias_correction_unless_asked() {
        let mlx = Settings { semantics: Some(Semantics::Mlx), ..Default::default() };
        assert!(!mlx.config().unwrap().bias_correction);
        let asked = Settings { bias_correction: Some(true), ..mlx };
        assert!(asked.config().unwrap().bias_correction);
        assert!(Settings::default().config().unwrap().bias_correction);
    }

    #[test]
    fn a_bottleneck_has_no_scale_and_its_own_places() {
        let bottleneck = Settings { adapter_type: Some(Type::Bottleneck), ..Default::default() };
        assert_eq!(bottleneck.config().unwrap().keys.len(), 2);
        let scaled = Settings { scale: Some(2.0), ..bottleneck };
        assert!(scaled.config().unwrap_err().to_string().contains("--scale"));
    }

    #[test]
    fn a_rule_is_a_pattern_and_a_number() {
        let rule = |text: &str| text.parse::<Rule<usize>>();
        let ok = Rule { pattern: "layers\\.(?=2)=x".into(), value: 4 };
        assert_eq!(rule("layers\\.(?=2)=x=4"), Ok(ok));
        for text in ["q_proj", "q_proj=", "=4", "q_proj=-1", "q_proj=1.5"] {
            assert!(rule(text).is_err(), "{text}");
        }
        let rules = Some(vec![rule("q_proj=4").unwrap()]);
        let saved = Settings { rank_pattern: rules, ..Default::default() }.config().unwrap();
        assert_eq!(saved.rank_pattern["q_proj"], 4);
        assert_eq!(Settings::default().resumed(&saved).unwrap(), saved);
    }

    #[test]
    fn a_resumed_run_keeps_its_settings() {
        let saved = Settings { rank: Some(4), ..Default::default() }.config().unwrap();
        let more = Settings { iters: Some(500), ..Default::default() };
        assert_eq!(more.resumed(&saved).unwrap().iters, 500);
        assert_eq!(more.resumed(&saved).unwrap().rank, 4);
        let other = Settings { rank: Some(8), ..Default::default() };
        assert!(other.resumed(&saved).is_err());
    }
}
