//! The training loop, one event at a time.

use std::ops::ControlFlow;
use std::rc::Rc;

use super::checkpoint::Checkpoint;
use super::config::TrainConfig;
use super::config::TrainMode;
use super::gpu_learner::GpuLearner;
use super::learner::{Learner, LearnerState, TrainStep};
use super::preference::{Preference, weigh};
use crate::data::batch::{Batch, BatchSet, Semantics};
use crate::data::source::{BatchSource, SourceState};
use crate::gpu::Context;
use crate::model::{AdapterTensors, AnyAdapter, GpuAdapter, GpuLlama, ModelConfig};
use crate::{Error, Result};

/// What happened in [`Trainer::advance`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The validation loss, measured before the iteration.
    Validated {
        /// The iteration that comes next, counted from 1.
        iteration: usize,
        /// Mean loss of the validation tokens, nats.
        loss: f32,
        /// Whether it is the lowest so far.
        best: bool,
    },
    /// An iteration was submitted; its loss comes with the next report.
    Stepped {
        /// The iteration, counted from 1.
        iteration: usize,
        /// Tokens computed.
        tokens: usize,
    },
    /// An iteration was done, and with it an interval.
    Reported {
        /// The iteration, counted from 1.
        iteration: usize,
        /// Tokens computed in this iteration.
        tokens: usize,
        /// Mean training loss of the interval.
        loss: f32,
        /// Norm of the gradients at the interval's last update, before clipping.
        gradient_norm: f32,
        /// Tokens with a loss since the start.
        trained_tokens: usize,
    },
}

/// What a run is trained and validated on.
#[derive(Debug)]
pub struct TrainData {
    train: BatchSet,
    valid: Option<BatchSet>,
    test: Option<BatchSet>,
}

/// What the batches of a run need room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Most tokens of a batch.
    pub tokens: usize,
    /// The longest sequence.
    pub positions: usize,
}

impl TrainData {
    /// Sets made with the [`TrainConfig::batch_config`] of the run, for a model of `config`.
    ///
    /// # Errors
    /// A token that is not in the vocabulary, an example longer than the context.
    pub fn new(train: BatchSet, valid: Option<BatchSet>, config: &ModelConfig) -> Result<Self> {
        Self { train, valid, test: None }.checked(config)
    }

    /// With a set that [`Trainer::test`] asks the loss of.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn testing(self, test: BatchSet, config: &ModelConfig) -> Result<Self> {
        Self { test: Some(test), ..self }.checked(config)
    }

    fn checked(self, config: &ModelConfig) -> Result<Self> {
        self.sets().try_for_each(|set| check_ids(set, config.vocab_size))?;
        let (positions, limit) = (self.room().positions, config.max_position_embeddings);
        if positions > limit {
            return Err(Error::invalid(format!(
                "an example of the data has {positions} tokens, the model's context is {limit}; \
                 set max-seq-length to {limit} or less"
            )));
        }
        Ok(self)
    }

    fn sets(&self) -> impl Iterator<Item = &BatchSet> {
        [Some(&self.train), self.valid.as_ref(), self.test.as_ref()].into_iter().flatten()
    }

    /// What its batches need room for.
    pub fn room(&self) -> Room {
        Room {
            tokens: self.sets().map(BatchSet::most_tokens).max().unwrap_or(1),
            positions: self.sets().map(BatchSet::longest).max().unwrap_or(1),
        }
    }
}

/// A training run. `L` computes it.
#[derive(Debug)]
pub struct Trainer<L = GpuLearner> {
    learner: L,
    config: TrainConfig,
    source: BatchSource,
    valid: Option<BatchSet>,
    test: Option<BatchSet>,
    iteration: usize,
    updates: usize,
    best: Option<f32>,
    /// The batch of the next iteration, drawn before its validation, and where the data order
    /// stood before that.
    pending: Option<(Batch, SourceState)>,
    /// The last iteration whose validation was done.
    validated: usize,
    interval: Interval,
    /// Of the last interval that was reported.
    preference: Option<Preference>,
    trained_tokens: usize,
}

/// What the host knows of the iterations since the last report.
#[derive(Debug, Default)]
struct Interval {
    /// Tokens with a loss in each of its iterations; pairs, where those are what counts.
    trained: Vec<usize>,
    /// The same in the batches of the next update.
    accumulated: usize,
    /// How its pairs were told apart; none since a resume.
    preference: Option<Preference>,
}

impl Trainer {
    /// A run of `config` on the GPU, from `adapter` on.
    ///
    /// # Errors
    /// Settings that can't be used; data sets made with another [`TrainConfig::batch_config`];
    /// too little GPU memory.
    pub fn new(
        context: &Context,
        model: &Rc<GpuLlama>,
        adapter: &AdapterTensors,
        train: BatchSet,
        valid: Option<BatchSet>,
        config: &TrainConfig,
    ) -> Result<Self> {
        config.check()?;
        let data = TrainData::new(train, valid, &model.config)?;
        let learner = GpuLearner::new(context, model, adapter, data.room(), config)?;
        Self::with(learner, data, config)
    }

    /// Goes on from a checkpoint with the same data: the losses that follow are those of the run
    /// that was stopped, bit for bit on the same adapter.
    ///
    /// # Errors
    /// As [`Self::new`]; another data set or shape than the checkpoint's.
    pub fn resume(
        context: &Context,
        model: &Rc<GpuLlama>,
        train: BatchSet,
        valid: Option<BatchSet>,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let config = &checkpoint.config;
        config.check()?;
        let blank = config.initial_adapter(&model.config)?;
        let data = TrainData::new(train, valid, &model.config)?;
        let learner = GpuLearner::new(context, model, &blank, data.room(), config)?;
        Self::resume_with(learner, data, checkpoint)
    }

    /// The adapter as it is now, for a decoder on the same device.
    pub fn adapter(&self) -> &GpuAdapter {
        self.learner.gpu_adapter()
    }

    /// The adapter's parameters as they are now.
    pub async fn adapter_tensors(&self) -> Result<AdapterTensors> {
        self.learner.adapter_tensors().await
    }

    /// The gradients of the last update, in the layout of the adapter.
    pub async fn gradients(&self) -> Result<AdapterTensors> {
        self.learner.gradients().await
    }
}

impl<L: Learner> Trainer<L> {
    /// A run of `config` by a learner that has just been made.
    ///
    /// # Errors
    /// Settings that can't be used.
    pub fn with(learner: L, data: TrainData, config: &TrainConfig) -> Result<Self> {
        config.check()?;
        let source = BatchSource::new(data.train)?;
        Ok(Self {
            learner,
            config: config.clone(),
            source,
            valid: data.valid,
            test: data.test,
            iteration: 0,
            updates: 0,
            best: None,
            pending: None,
            validated: 0,
            interval: Interval::default(),
            preference: None,
            trained_tokens: 0,
        })
    }

    /// Goes on from a checkpoint by a learner that was made for its settings.
    ///
    /// # Errors
    /// Another data set or shape than the checkpoint's.
    pub fn resume_with(mut learner: L, data: TrainData, checkpoint: &Checkpoint) -> Result<Self> {
        let config = &checkpoint.config;
        config.check()?;
        let (trained, history): (Vec<usize>, Vec<[f32; 2]>) =
            checkpoint.interval.iter().copied().unzip();
        if history.len() >= config.steps_per_report {
            return Err(Error::invalid(
                "the checkpoint's report interval is overfull; it is damaged",
            ));
        }
        learner.restore(&LearnerState {
            parameters: checkpoint.parameters.clone(),
            first_moments: checkpoint.first_moments.clone(),
            second_moments: checkpoint.second_moments.clone(),
            gradients: checkpoint.gradients.clone(),
            gradient_norm: checkpoint.gradient_norm,
            updates: checkpoint.updates,
            history,
        })?;
        Ok(Self {
            learner,
            config: config.clone(),
            source: BatchSource::resume(data.train, checkpoint.source.clone())?,
            valid: data.valid,
            test: data.test,
            iteration: checkpoint.iteration,
            updates: checkpoint.updates,
            best: checkpoint.best,
            pending: None,
            validated: checkpoint.iteration,
            interval: Interval { trained, accumulated: checkpoint.accumulated, preference: None },
            preference: None,
            trained_tokens: checkpoint.trained_tokens,
        })
    }

    /// What it was started with.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Iterations done.
    pub fn iteration(&self) -> usize {
        self.iteration
    }

    /// Whether there is something to validate it on.
    pub fn is_validated(&self) -> bool {
        self.valid.is_some() && self.config.val_batches != 0
    }

    /// The step size of the last update, or before one, of the first.
    pub fn learning_rate(&self) -> f32 {
        self.config.rate(self.updates.saturating_sub(1))
    }

    /// How the pairs of the last reported interval were told apart, where pairs are trained on.
    pub fn preference(&self) -> Option<Preference> {
        self.preference
    }

    /// What computes it.
    pub fn learner(&self) -> &L {
        &self.learner
    }

    /// The adapter as it is now, for files.
    pub async fn any_adapter(&self) -> Result<AnyAdapter> {
        self.learner.adapter().await
    }

    /// Does the next thing: a validation where one is due, else an iteration. `None` after the
    /// last. As in MLX-LM, validations come before the iterations 1, every `steps_per_eval`th and
    /// the last.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a loss or gradient of the interval is not finite: the update that it
    /// would have made was left out, so that [`Self::save`] still has a sound adapter.
    pub async fn advance(&mut self) -> Result<Option<Event>> {
        if self.iteration >= self.config.iters {
            return Ok(None);
        }
        let iteration = self.iteration + 1;
        if self.pending.is_none() {
            let before = self.source.state().clone();
            self.pending = Some((self.source.next_batch(), before));
        }
        let due = iteration == 1
            || iteration.is_multiple_of(self.config.steps_per_eval)
            || iteration == self.config.iters;
        if due && self.validated < iteration {
            self.validated = iteration;
            if let Some(loss) = self.validate(iteration).await? {
                let best = self.best.is_none_or(|best| loss < best);
                if best {
                    self.best = Some(loss);
                }
                return Ok(Some(Event::Validated { iteration, loss, best }));
            }
        }
        let Some((batch, _)) = self.pending.take() else { return Ok(None) };
        let tokens = batch.tokens.len();
        self.train_on(batch, iteration).await?;
        self.iteration = iteration;
        let report = iteration.is_multiple_of(self.config.steps_per_report)
            || iteration == self.config.iters;
        if !report {
            return Ok(Some(Event::Stepped { iteration, tokens }));
        }
        let (loss, gradient_norm) = self.report(iteration).await?;
        let trained_tokens = self.trained_tokens;
        Ok(Some(Event::Reported { iteration, tokens, loss, gradient_norm, trained_tokens }))
    }

    /// One iteration: gradients, an update where one is due, and the note of its loss.
    async fn train_on(&mut self, mut batch: Batch, iteration: usize) -> Result<()> {
        let accumulation = self.config.grad_accumulation_steps;
        let last = iteration.is_multiple_of(accumulation);
        let trained = batch.trained;
        let preference = match self.config.train_mode {
            TrainMode::Sft => None,
            TrainMode::Dpo => Some(self.prefer(&mut batch).await?),
        };
        // What a batch weighs.
        let counted = preference.map_or(trained, |preference| preference.pairs);
        self.interval.accumulated += counted;
        let gradient_scale = match self.config.semantics {
            // Every token of an update counts alike.
            Semantics::Engram => {
                if preference.is_none() {
                    batch.set_total(1);
                }
                1.0 / self.interval.accumulated as f32
            }
            // Every batch of an update counts alike.
            Semantics::Mlx => 1.0 / accumulation as f32,
        };
        let learning_rate = self.config.rate(self.updates);
        if last {
            self.updates += 1;
            self.interval.accumulated = 0;
        }
        let step = TrainStep {
            iteration,
            slot: self.interval.trained.len(),
            first: (iteration - 1).is_multiple_of(accumulation),
            last,
            learning_rate,
            gradient_scale,
            updates: self.updates,
            loss: preference.map(|preference| preference.loss as f32),
        };
        self.interval.trained.push(counted);
        self.trained_tokens += trained;
        if let Some(preference) = preference {
            let before = self.interval.preference.unwrap_or_default();
            self.interval.preference = Some(before.and(preference));
        }
        self.learner.train(&batch, &step).await
    }

    /// Weighs a batch of pairs by how they are told apart now.
    async fn prefer(&mut self, batch: &mut Batch) -> Result<Preference> {
        batch.set_total(1);
        let losses = self.learner.token_losses(batch, true).await?;
        let reference = self.learner.token_losses(batch, false).await?;
        weigh(batch, &losses, &reference, self.config.beta)
    }

    /// Reads the interval's losses: their mean, and the last gradient norm.
    async fn report(&mut self, iteration: usize) -> Result<(f32, f32)> {
        let trained = std::mem::take(&mut self.interval.trained);
        self.preference = self.interval.preference.take();
        let history = self.learner.history(trained.len()).await?;
        let before = iteration - trained.len();
        for (i, [loss, norm]) in (1..).zip(&history) {
            if !loss.is_finite() {
                let tensor = "the training loss".to_owned();
                return Err(Error::NotFinite { iteration: before + i, tensor });
            }
            if !norm.is_finite() {
                let tensor = self.first_gradient_not_finite().await?;
                return Err(Error::NotFinite { iteration: before + i, tensor });
            }
        }
        let losses: f64 = history.iter().map(|[loss, _]| f64::from(*loss)).sum();
        let count = match self.config.semantics {
            Semantics::Engram => trained.iter().sum(),
            Semantics::Mlx => trained.len(),
        };
        let norm = history.last().map_or(0.0, |[_, norm]| *norm);
        Ok(((losses / count.max(1) as f64) as f32, norm))
    }

    async fn first_gradient_not_finite(&self) -> Result<String> {
        let gradients = self.learner.state().await?.gradients;
        let bad = gradients.iter().position(|v| !v.is_finite()).unwrap_or(0);
        let mut names = self.learner.parameter_names().into_iter();
        let found = names.find(|(_, place)| place.contains(&bad));
        Ok(found
            .map_or_else(|| "a gradient".to_owned(), |(name, _)| format!("the gradient of {name}")))
    }

    /// The mean loss of the validation tokens; none without a validation set.
    async fn validate(&mut self, iteration: usize) -> Result<Option<f32>> {
        let limit = usize::try_from(self.config.val_batches).ok();
        let Some(valid) = self.valid.as_ref().filter(|_| limit != Some(0)) else {
            return Ok(None);
        };
        let batches = self.source.validation(valid, limit).collect();
        let (sum, count) = self.loss_of(batches).await?;
        mean(sum, count, iteration, "the validation loss").map(Some)
    }

    /// The mean loss over at most `limit` batches of the test set, nats a token, or a pair where
    /// pairs are trained on; none without a test set. `on_batch` gets how many of how many are done.
    ///
    /// # Errors
    /// [`Error::Cancelled`] where `on_batch` breaks; [`Error::NotFinite`].
    pub async fn test(
        &mut self,
        limit: Option<usize>,
        on_batch: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<f32>> {
        let Some(test) = &self.test else { return Ok(None) };
        let batches: Vec<Batch> = self.source.validation(test, limit).collect();
        let (mut sum, mut count, total) = (0.0, 0, batches.len());
        for (done, batch) in (1..).zip(batches) {
            let (more, counted) = self.loss_of(vec![batch]).await?;
            (sum, count) = (sum + more, count + counted);
            if on_batch(done, total).is_break() {
                return Err(Error::Cancelled);
            }
        }
        mean(sum, count, self.iteration, "the test loss").map(Some)
    }

    /// The losses of `batches` added up, and of how many tokens, or pairs where those count.
    async fn loss_of(&mut self, mut batches: Vec<Batch>) -> Result<(f64, usize)> {
        if self.config.train_mode == TrainMode::Dpo {
            let mut all = Preference::default();
            for batch in &mut batches {
                all = all.and(self.prefer(batch).await?);
            }
            return Ok((all.loss, all.pairs));
        }
        batches.iter_mut().for_each(|batch| batch.set_total(1));
        let trained = batches.iter().map(|batch| batch.trained).sum();
        Ok((self.learner.loss(batches).await?.into(), trained))
    }

    /// Everything that [`Self::resume`] needs to go on after the last whole iteration; the
    /// validation before the next one is then done again.
    pub async fn save(&self) -> Result<Checkpoint> {
        let mut state = self.learner.state().await?;
        let used = self.iteration.is_multiple_of(self.config.grad_accumulation_steps);
        if used || state.gradients.iter().any(|g| !g.is_finite()) {
            // Nothing more comes of them: the update is done, or it would have been left out.
            state.gradients.fill(0.0);
        }
        let source = match &self.pending {
            Some((_, before)) => before,
            None => self.source.state(),
        };
        let trained = &self.interval.trained;
        let history = self.learner.history(trained.len()).await?;
        let norm = state.gradient_norm;
        Ok(Checkpoint {
            config: self.config.clone(),
            iteration: self.iteration,
            updates: self.updates,
            accumulated: self.interval.accumulated,
            source: source.clone(),
            best: self.best,
            gradient_norm: if norm.is_finite() { norm } else { 0.0 },
            interval: trained.iter().copied().zip(history).collect(),
            trained_tokens: self.trained_tokens,
            parameters: state.parameters,
            first_moments: state.first_moments,
            second_moments: state.second_moments,
            gradients: state.gradients,
        })
    }
}

/// A sum over `count`, which is the loss that `what` says.
fn mean(sum: f64, count: usize, iteration: usize, what: &str) -> Result<f32> {
    let loss = (sum / count.max(1) as f64) as f32;
    if loss.is_finite() {
        return Ok(loss);
    }
    Err(Error::NotFinite { iteration, tensor: what.to_owned() })
}

fn check_ids(set: &BatchSet, vocab: usize) -> Result<()> {
    let ids = set.examples().iter().flat_map(|example| &example.ids);
    match ids.copied().find(|&id| id as usize >= vocab) {
        Some(id) => Err(Error::invalid(format!(
            "token {id} of the data is not in the model's vocabulary of {vocab}"
        ))),
        None => Ok(()),
    }
}
