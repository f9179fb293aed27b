//! Training by our kernels.

use std::ops::Range;
use std::rc::Rc;

use super::config::{AdapterType, TrainConfig};
use super::learner::{Learner, LearnerState, TrainStep};
use super::recording::{LossRecording, StepBuffers, StepRecording};
use super::trainer::Room;
use crate::data::batch::Batch;
use crate::gpu::{Buffer, Context, Recorder, Recording, Step};
use crate::kernels::optimizer::{OptimizerState, adam, gradient_norm};
use crate::model::{AdapterTensors, AnyAdapter, GpuAdapter, GpuLlama};
use crate::{Error, Result};

/// A LoRA adapter in training on the GPU: one recording of a step, replayed batch by batch.
#[derive(Debug)]
pub struct GpuLearner {
    context: Context,
    config: TrainConfig,
    adapter: GpuAdapter,
    optimizer: OptimizerState,
    buffers: StepBuffers,
    /// Loss and gradient norm of each iteration of the interval, f32 (steps_per_report, 2).
    history: Buffer,
    step: StepRecording,
    update: Recording,
    validation: LossRecording,
    updates: usize,
}

impl GpuLearner {
    /// Records training steps of `config` on `adapter` for batches within `room`.
    ///
    /// # Errors
    /// Too little GPU memory.
    pub fn new(
        context: &Context,
        model: &Rc<GpuLlama>,
        adapter: &AdapterTensors,
        room: Room,
        config: &TrainConfig,
    ) -> Result<Self> {
        if !matches!(config.adapter_type, AdapterType::Lora | AdapterType::Rslora) {
            return Err(Error::invalid(
                "the wgpu engine trains the adapter types lora and rslora; use --engine burn",
            ));
        }
        let adapter = GpuAdapter::upload(context, adapter)?;
        let optimizer = OptimizerState::new(context, adapter.parameters.clone(), adapter.count)?;
        let buffers = StepBuffers::new(context, model, room.tokens, room.positions)?;
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
            buffers,
            history,
            step,
            update: update.finish(),
            validation,
            updates: 0,
        })
    }

    /// The adapter as it is now, for a decoder on the same device.
    pub fn gpu_adapter(&self) -> &GpuAdapter {
        &self.adapter
    }

    /// The parameters as they are now.
    pub async fn adapter_tensors(&self) -> Result<AdapterTensors> {
        self.adapter.download(&self.context).await
    }

    /// The gradients of the last update, in the layout of the adapter.
    pub async fn gradients(&self) -> Result<AdapterTensors> {
        let buffer = self.optimizer.gradients.clone();
        let gradients = GpuAdapter { parameters: buffer, ..self.adapter.clone() };
        gradients.download(&self.context).await
    }
}

impl Learner for GpuLearner {
    fn parameter_count(&self) -> usize {
        self.adapter.count
    }

    fn dispatches_per_step(&self) -> Option<usize> {
        Some(self.step.recording().len() + self.update.len())
    }

    async fn train(&mut self, batch: &Batch, train: &TrainStep) -> Result<()> {
        let adam = self.config.adam();
        let moment_scale = |beta: f64| match self.config.bias_correction {
            true => (1.0 / (1.0 - beta.powi(train.updates.max(1) as i32))) as f32,
            false => 1.0,
        };
        let step = Step {
            tokens: batch.tokens.len() as u32,
            learning_rate: train.learning_rate,
            gradient_scale: train.gradient_scale,
            first_moment_scale: moment_scale(adam.beta1),
            second_moment_scale: moment_scale(adam.beta2),
            ..Default::default()
        };
        self.buffers.write(&self.context, &batch.tokens, &batch.targets, &step);

        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        if train.first {
            encoder.clear_buffer(&self.optimizer.gradients, 0, None);
        }
        encoder.clear_buffer(&self.buffers.loss, 0, None);
        self.step.recording().encode(&mut encoder, step.tokens, 1)?;
        if train.last {
            self.update.encode(&mut encoder, step.tokens, 1)?;
        }
        let slot = 8 * train.slot as u64;
        let (loss, clip) = (&self.buffers.loss, &self.optimizer.clip);
        encoder.copy_buffer_to_buffer(loss, 0, &self.history, slot, Some(4));
        encoder.copy_buffer_to_buffer(clip, 4, &self.history, slot + 4, Some(4));
        self.context.submit(encoder);
        self.updates = train.updates;
        self.context.check()?;
        if self.context.adapter().is_software {
            // Keeps the caller's view of the progress true where a step takes seconds.
            self.context.settle().await?;
        }
        Ok(())
    }

    async fn history(&self, count: usize) -> Result<Vec<[f32; 2]>> {
        self.context.read(&self.history, 0, count).await
    }

    async fn loss(&mut self, batches: Vec<Batch>) -> Result<f32> {
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        encoder.clear_buffer(&self.buffers.loss, 0, None);
        self.context.submit(encoder);
        for batch in batches {
            let step = Step { tokens: batch.tokens.len() as u32, ..Default::default() };
            self.buffers.write(&self.context, &batch.tokens, &batch.targets, &step);
            self.validation.recording().submit(step.tokens, 1)?;
        }
        let sum: Vec<f32> = self.context.read(&self.buffers.loss, 0, 1).await?;
        Ok(sum[0])
    }

    async fn state(&self) -> Result<LearnerState> {
        let read = |buffer| self.context.read(buffer, 0, self.adapter.count);
        let norm: Vec<f32> = self.context.read(&self.optimizer.clip, 1, 1).await?;
        Ok(LearnerState {
            parameters: read(&self.optimizer.parameters).await?,
            first_moments: read(&self.optimizer.first_moments).await?,
            second_moments: read(&self.optimizer.second_moments).await?,
            gradients: read(&self.optimizer.gradients).await?,
            gradient_norm: norm[0],
            updates: self.updates,
            history: Vec::new(),
        })
    }

    fn restore(&mut self, state: &LearnerState) -> Result<()> {
        state.check(self.adapter.count)?;
        for (buffer, values) in [
            (&self.optimizer.parameters, &state.parameters),
            (&self.optimizer.first_moments, &state.first_moments),
            (&self.optimizer.second_moments, &state.second_moments),
            (&self.optimizer.gradients, &state.gradients),
        ] {
            self.context.write(buffer, 0, bytemuck::cast_slice(values));
        }
        let norm = bytemuck::bytes_of(&state.gradient_norm);
        self.context.write(&self.optimizer.clip, 4, norm);
        self.context.write(&self.history, 0, bytemuck::cast_slice(&state.history));
        self.updates = state.updates;
        Ok(())
    }

    fn parameter_names(&self) -> Vec<(String, Range<usize>)> {
        let starts = self.adapter.adapter.iter().flat_map(|(layer, target, lora)| {
            let name = move |half| format!("model.layers.{layer}.{}.{half}", target.path());
            [(name("lora_a"), lora.a.offset), (name("lora_b"), lora.b.offset)]
        });
        let starts: Vec<(String, usize)> = starts.collect();
        let ends = starts.iter().skip(1).map(|(_, start)| *start).chain([self.adapter.count]);
        let ends: Vec<usize> = ends.collect();
        starts.into_iter().zip(ends).map(|((name, start), end)| (name, start..end)).collect()
    }

    async fn adapter(&self) -> Result<AnyAdapter> {
        Ok(AnyAdapter::Lora(self.adapter_tensors().await?))
    }
}
