//! The training loop, one event at a time.

use std::rc::Rc;

use super::checkpoint::Checkpoint;
use super::config::TrainConfig;
use super::recording::{LossRecording, StepBuffers, StepRecording};
use crate::data::batch::{Batch, BatchSet, Semantics};
use crate::data::source::{BatchSource, SourceState};
use crate::gpu::{Buffer, Context, Recorder, Recording, Step};
use crate::kernels::optimizer::{OptimizerState, adam, gradient_norm};
use crate::model::{AdapterTensors, GpuAdapter, GpuLlama};
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

/// A LoRA training run on the GPU.
#[derive(Debug)]
pub struct Trainer {
    context: Context,
    config: TrainConfig,
    adapter: GpuAdapter,
    optimizer: OptimizerState,
    source: BatchSource,
    valid: Option<BatchSet>,
    buffers: StepBuffers,
    /// Loss and gradient norm of each iteration of the interval, f32 (steps_per_report, 2).
    history: Buffer,
    step: StepRecording,
    update: Recording,
    validation: LossRecording,
    iteration: usize,
    updates: usize,
    best: Option<f32>,
    /// The batch of the next iteration, drawn before its validation, and where the data order
    /// stood before that.
    pending: Option<(Batch, SourceState)>,
    /// The last iteration whose validation was done.
    validated: usize,
    interval: Interval,
    trained_tokens: usize,
}

/// What the host knows of the iterations since the last report.
#[derive(Debug, Default)]
struct Interval {
    /// Tokens with a loss in each of its iterations.
    trained: Vec<usize>,
    /// Tokens with a loss in the batches of the next update.
    accumulated: usize,
}

impl Trainer {
    /// A run of `config` from `adapter` on.
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
        let source = BatchSource::new(train)?;
        Self::build(context, model, adapter, source, valid, config)
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
        let source = BatchSource::resume(train, checkpoint.source.clone())?;
        let mut trainer = Self::build(context, model, &blank, source, valid, config)?;
        for (buffer, values) in [
            (&trainer.optimizer.parameters, &checkpoint.parameters),
            (&trainer.optimizer.first_moments, &checkpoint.first_moments),
            (&trainer.optimizer.second_moments, &checkpoint.second_moments),
            (&trainer.optimizer.gradients, &checkpoint.gradients),
        ] {
            if values.len() != trainer.adapter.count {
                return Err(Error::invalid(format!(
                    "the checkpoint has {} parameters, this model and these settings {}",
                    values.len(),
                    trainer.adapter.count
                )));
            }
            context.write(buffer, 0, bytemuck::cast_slice(values));
        }
        context.write(&trainer.optimizer.clip, 4, bytemuck::bytes_of(&checkpoint.gradient_norm));
        trainer.iteration = checkpoint.iteration;
        trainer.updates = checkpoint.updates;
        trainer.best = checkpoint.best;
        trainer.validated = checkpoint.iteration;
        trainer.trained_tokens = checkpoint.trained_tokens;
        trainer.interval.accumulated = checkpoint.accumulated;
        let (trained, history): (Vec<usize>, Vec<[f32; 2]>) =
            checkpoint.interval.iter().copied().unzip();
        if history.len() >= config.steps_per_report {
            return Err(Error::invalid(
                "the checkpoint's report interval is overfull; it is damaged",
            ));
        }
        context.write(&trainer.history, 0, bytemuck::cast_slice(&history));
        trainer.interval.trained = trained;
        Ok(trainer)
    }

    fn build(
        context: &Context,
        model: &Rc<GpuLlama>,
        adapter: &AdapterTensors,
        source: BatchSource,
        valid: Option<BatchSet>,
        config: &TrainConfig,
    ) -> Result<Self> {
        check_ids(source.set(), model.config.vocab_size)?;
        if let Some(valid) = &valid {
            check_ids(valid, model.config.vocab_size)?;
        }
        let sets = || [Some(source.set()), valid.as_ref()].into_iter().flatten();
        let positions = sets().map(BatchSet::longest).max().unwrap_or(1);
        let limit = model.config.max_position_embeddings;
        if positions > limit {
            return Err(Error::invalid(format!(
                "an example of the data has {positions} tokens, the model's context is {limit}; \
                 set max-seq-length to {limit} or less"
            )));
        }
        let capacity = sets().map(BatchSet::most_tokens).max().unwrap_or(1);
        let adapter = GpuAdapter::upload(context, adapter)?;
        let optimizer = OptimizerState::new(context, adapter.parameters.clone(), adapter.count)?;
        let buffers = StepBuffers::new(context, model, capacity, positions)?;
        let step = StepRecording::new(
            context,
            model,
            &adapter.adapter,
            &optimizer.gradients,
            &buffers,
            config.grad_checkpoint,
        )?;
        let validation = LossRecording::new(context, model, Some(&adapter.adapter), &buffers)?;
        let mut update = Recorder::new(context, &buffers.step);
        gradient_norm(&mut update, &optimizer, config.max_grad_norm)?;
        adam(&mut update, &optimizer, config.adam())?;
        let history = context.storage("history", 8 * config.steps_per_report as u64)?;
        Ok(Self {
            context: context.clone(),
            config: config.clone(),
            adapter,
            optimizer,
            source,
            valid,
            buffers,
            history,
            step,
            update: update.finish(),
            validation,
            iteration: 0,
            updates: 0,
            best: None,
            pending: None,
            validated: 0,
            interval: Interval::default(),
            trained_tokens: 0,
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

    /// The adapter as it is now, for a decoder on the same device.
    pub fn adapter(&self) -> &GpuAdapter {
        &self.adapter
    }

    /// Dispatches of one training step with its update.
    pub fn dispatches_per_step(&self) -> usize {
        self.step.recording().len() + self.update.len()
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
        self.train_on(batch, iteration);
        self.context.check()?;
        self.iteration = iteration;
        if self.context.adapter().is_software {
            // Keeps the caller's view of the progress true where a step takes seconds.
            self.context.drain().await?;
        }
        let report = iteration.is_multiple_of(self.config.steps_per_report)
            || iteration == self.config.iters;
        if !report {
            return Ok(Some(Event::Stepped { iteration, tokens }));
        }
        let (loss, gradient_norm) = self.report(iteration).await?;
        let trained_tokens = self.trained_tokens;
        Ok(Some(Event::Reported { iteration, tokens, loss, gradient_norm, trained_tokens }))
    }

    /// Submits one iteration: gradients, an update where one is due, and the note of its loss.
    fn train_on(&mut self, mut batch: Batch, iteration: usize) {
        let accumulation = self.config.grad_accumulation_steps;
        let first = (iteration - 1).is_multiple_of(accumulation);
        let last = iteration.is_multiple_of(accumulation);
        self.interval.accumulated += batch.trained;
        let gradient_scale = match self.config.semantics {
            // Every token of an update counts alike.
            Semantics::Engram => {
                batch.set_total(1);
                1.0 / self.interval.accumulated as f32
            }
            // Every batch of an update counts alike.
            Semantics::Mlx => 1.0 / accumulation as f32,
        };
        if last {
            self.updates += 1;
            self.interval.accumulated = 0;
        }
        let adam = self.config.adam();
        let moment_scale = |beta: f64| match self.config.bias_correction {
            true => (1.0 / (1.0 - beta.powi(self.updates.max(1) as i32))) as f32,
            false => 1.0,
        };
        let step = Step {
            tokens: batch.tokens.len() as u32,
            learning_rate: self.config.learning_rate,
            gradient_scale,
            first_moment_scale: moment_scale(adam.beta1),
            second_moment_scale: moment_scale(adam.beta2),
            ..Default::default()
        };
        self.buffers.write(&self.context, &batch.tokens, &batch.targets, &step);

        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        if first {
            encoder.clear_buffer(&self.optimizer.gradients, 0, None);
        }
        encoder.clear_buffer(&self.buffers.loss, 0, None);
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.step.recording().encode(&mut pass, step.tokens);
            if last {
                self.update.encode(&mut pass, step.tokens);
            }
        }
        let slot = 8 * self.interval.trained.len() as u64;
        let (loss, clip) = (&self.buffers.loss, &self.optimizer.clip);
        encoder.copy_buffer_to_buffer(loss, 0, &self.history, slot, Some(4));
        encoder.copy_buffer_to_buffer(clip, 4, &self.history, slot + 4, Some(4));
        self.context.queue().submit([encoder.finish()]);
        self.interval.trained.push(batch.trained);
        self.trained_tokens += batch.trained;
    }

    /// Reads the interval's losses: their mean, and the last gradient norm.
    async fn report(&mut self, iteration: usize) -> Result<(f32, f32)> {
        let trained = std::mem::take(&mut self.interval.trained);
        let history: Vec<[f32; 2]> = self.context.read(&self.history, 0, trained.len()).await?;
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
        let gradients = &self.optimizer.gradients;
        let values: Vec<f32> = self.context.read(gradients, 0, self.adapter.count).await?;
        let bad = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
        let starts = self.adapter.adapter.iter().flat_map(|(layer, target, lora)| {
            [(lora.a.offset, "lora_a"), (lora.b.offset, "lora_b")]
                .map(|(start, half)| (start, layer, target, half))
        });
        let found = starts.filter(|(start, ..)| *start <= bad).last();
        Ok(found.map_or_else(
            || "a gradient".to_owned(),
            |(_, layer, target, half)| {
                format!("the gradient of model.layers.{layer}.{}.{half}", target.path())
            },
        ))
    }

    /// The mean loss of the validation tokens; none without a validation set.
    async fn validate(&mut self, iteration: usize) -> Result<Option<f32>> {
        let limit = usize::try_from(self.config.val_batches).ok();
        let Some(valid) = self.valid.as_ref().filter(|_| limit != Some(0)) else {
            return Ok(None);
        };
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        encoder.clear_buffer(&self.buffers.loss, 0, None);
        self.context.queue().submit([encoder.finish()]);
        let mut trained = 0;
        for mut batch in self.source.validation(valid, limit) {
            batch.set_total(1);
            trained += batch.trained;
            let step = Step { tokens: batch.tokens.len() as u32, ..Default::default() };
            self.buffers.write(&self.context, &batch.tokens, &batch.targets, &step);
            self.validation.recording().submit(step.tokens, 1);
            self.context.check()?;
        }
        let sum: Vec<f32> = self.context.read(&self.buffers.loss, 0, 1).await?;
        let loss = sum[0] / trained.max(1) as f32;
        if !loss.is_finite() {
            let tensor = "the validation loss".to_owned();
            return Err(Error::NotFinite { iteration, tensor });
        }
        Ok(Some(loss))
    }

    /// The adapter's parameters as they are now.
    pub async fn adapter_tensors(&self) -> Result<AdapterTensors> {
        self.adapter.download(&self.context).await
    }

    /// The gradients of the last update, in the layout of the adapter.
    pub async fn gradients(&self) -> Result<AdapterTensors> {
        let buffer = self.optimizer.gradients.clone();
        let gradients = GpuAdapter { parameters: buffer, ..self.adapter.clone() };
        gradients.download(&self.context).await
    }

    /// Everything that [`Self::resume`] needs to go on after the last whole iteration; the
    /// validation before the next one is then done again.
    pub async fn save(&self) -> Result<Checkpoint> {
        let read = |buffer| self.context.read(buffer, 0, self.adapter.count);
        let mut gradients: Vec<f32> = read(&self.optimizer.gradients).await?;
        let used = self.iteration.is_multiple_of(self.config.grad_accumulation_steps);
        if used || gradients.iter().any(|g| !g.is_finite()) {
            // Nothing more comes of them: the update is done, or it would have been left out.
            gradients.fill(0.0);
        }
        let norm: Vec<f32> = self.context.read(&self.optimizer.clip, 1, 1).await?;
        let source = match &self.pending {
            Some((_, before)) => before,
            None => self.source.state(),
        };
        let trained = &self.interval.trained;
        let history: Vec<[f32; 2]> = self.context.read(&self.history, 0, trained.len()).await?;
        Ok(Checkpoint {
            config: self.config.clone(),
            iteration: self.iteration,
            updates: self.updates,
            accumulated: self.interval.accumulated,
            source: source.clone(),
            best: self.best,
            gradient_norm: if norm[0].is_finite() { norm[0] } else { 0.0 },
            interval: trained.iter().copied().zip(history).collect(),
            trained_tokens: self.trained_tokens,
            parameters: read(&self.optimizer.parameters).await?,
            first_moments: read(&self.optimizer.first_moments).await?,
            second_moments: read(&self.optimizer.second_moments).await?,
            gradients,
        })
    }
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
