//! Training steps.

use super::{Bench, Counts, Figure};
use crate::Result;
use crate::data::batch::BatchSet;
use crate::data::split::{Protocol, SplitConfig, build};
use crate::data::tokens::{Example, LossOn};
use crate::data::{patterns, tokens};
use crate::generate::Model;
use crate::train::{Event, GpuLearner, Learner, TrainConfig, TrainData, Trainer};

/// A training of either engine.
pub(super) enum Steps {
    Gpu(Box<Trainer<GpuLearner>>),
    #[cfg(feature = "burn")]
    Burn(Box<Trainer<crate::train::BurnLearner<crate::burn::LoraModule>>>),
}

impl Steps {
    /// The next iteration: its tokens.
    pub(super) async fn advance(&mut self) -> Result<usize> {
        match self {
            Steps::Gpu(trainer) => advance(trainer).await,
            #[cfg(feature = "burn")]
            Steps::Burn(trainer) => advance(trainer).await,
        }
    }
}

async fn advance<L: Learner>(trainer: &mut Trainer<L>) -> Result<usize> {
    Ok(match trainer.advance().await? {
        Some(Event::Stepped { tokens, .. } | Event::Reported { tokens, .. }) => tokens,
        Some(Event::Validated { .. }) | None => 0,
    })
}

impl Bench<'_> {
    /// Steps of the original experiment: four chats, rank 8, the last 16 blocks.
    pub async fn train(&self) -> Result<Vec<Figure>> {
        self.steps("4 chats", None).await
    }

    /// A step of `batch` texts of `length` tokens; nothing if the model's context is too short.
    pub async fn train_on(&self, batch: usize, length: usize) -> Result<Vec<Figure>> {
        if !self.fits(length, 1) {
            return Ok(Vec::new());
        }
        self.steps(&format!("{batch} × {length} tokens"), Some((batch, length))).await
    }

    async fn steps(&self, what: &str, texts: Option<(usize, usize)>) -> Result<Vec<Figure>> {
        if let Ok(gpu) = self.engine.model().gpu() {
            gpu.context.memory().reset_peak();
        }
        let mut steps = self.experiment(self.runs as usize + 1, texts)?;
        let mut rates = Vec::new();
        let mut counted = Vec::new();
        let once = async || {
            let (before, began) = (Counts::of(self.engine), (self.clock)());
            let tokens = steps.advance().await?;
            let seconds = (self.clock)() - began;
            rates.push(tokens as f64 / seconds);
            counted = match (before, Counts::of(self.engine)) {
                (Some(before), Some(now)) => now.figures(before, 1, "training step").into(),
                _ => Vec::new(),
            };
            Ok(seconds)
        };
        let step = self.take(format!("training step, {what}"), "s", once).await?;
        rates.remove(0);
        let rate = Figure { name: format!("training, {what}"), unit: "tokens/s", values: rates };
        let mut figures = vec![step, rate];
        if let Ok(gpu) = self.engine.model().gpu() {
            let peak = gpu.context.memory().peak() as f64 / 1e6;
            figures.push(Figure::counted(format!("training peak, {what}"), "MB", peak));
        }
        figures.extend(counted);
        Ok(figures)
    }

    /// A run of `iters` iterations with a report after each; of made-up texts of one length, as many
    /// a batch as the first number says, or of the original data.
    pub(super) fn experiment(&self, iters: usize, texts: Option<(usize, usize)>) -> Result<Steps> {
        let shape = self.engine.config();
        let defaults = TrainConfig::default();
        let config = TrainConfig {
            iters,
            batch_size: texts.map_or(defaults.batch_size, |(batch, _)| batch),
            num_layers: defaults.num_layers.min(shape.num_hidden_layers as i64),
            max_seq_length: texts.map_or(defaults.max_seq_length, |(_, length)| length + 1),
            steps_per_report: 1,
            val_batches: 0,
            ..defaults
        };
        let examples = match texts {
            Some((batch, length)) => (0..batch)
                // The last token is a target alone.
                .map(|i| Ok(Example::new(self.text(length + 1, i, 0)?, 0)))
                .collect::<Result<_>>()?,
            None => {
                let split = SplitConfig { protocol: Protocol::HeldOut, ..SplitConfig::default() };
                let records = build(&patterns::read(&patterns::BUNDLED)?, &split)?.train;
                tokens::tokenize("train", &records, self.engine, LossOn::Everything)?
            }
        };
        let data = TrainData::new(BatchSet::new(examples, config.batch_config())?, None, shape)?;
        match self.engine.model() {
            Model::Gpu(gpu) => {
                let initial = config.initial_adapter(shape)?;
                let room = data.room();
                let learner = GpuLearner::new(&gpu.context, &gpu.llama, &initial, room, &config)?;
                Ok(Steps::Gpu(Box::new(Trainer::with(learner, data, &config)?)))
            }
            #[cfg(feature = "burn")]
            Model::Burn(model) => {
                use crate::burn::{LoraConfig, LoraModule, fresh_on};
                use crate::train::BurnLearner;
                let kind = LoraConfig::from(&config);
                let places = config.linears(shape)?;
                let adapter = fresh_on::<LoraModule>(model, &places, &kind, config.seed)?;
                let learner = BurnLearner::new(model, adapter, kind, data.room(), &config);
                Ok(Steps::Burn(Box::new(Trainer::with(learner, data, &config)?)))
            }
        }
    }
}
