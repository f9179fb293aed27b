//! Training by our kernels.

use std::ops::Range;
use std::rc::Rc;

use super::config::{AdapterType, TrainConfig};
use super::learner::{Learner, LearnerState, TrainStep};
use super::recording::{LossRecording, StepBuffers, StepOptions, StepRecording};
use super::trainer::Room;
use crate::data::batch::Batch;
use crate::gpu::{Buffer, Context, Recorder, Recording, Step};
use crate::kernels::optimizer::{OptimizerState, Parameters, gradient_norm};
use crate::model::{AdapterTensors, AnyAdapter, GpuAdapter, GpuLlama, GpuWeights};
use crate::{Error, Result};

/// An adapter, weights, or both in training on the GPU: one recording of a step, replayed batch by
/// batch.
#[derive(Debug)]
pub struct GpuLearner {
    context: Context,
    config: TrainConfig,
    /// What is trained.
    adapter: GpuAdapter,
    /// The gradients of `adapter`, as it is laid out.
    gradients: GpuAdapter,
    optimizer: OptimizerState,
    buffers: StepBuffers,
    /// Loss and gradient norm of each iteration of the interval, f32 (steps_per_report, 2).
    history: Buffer,
    step: StepRecording,
    update: Recording,
    validation: LossRecording,
    /// The model as it was, and the loss of it once that was asked for.
    base: Rc<GpuLlama>,
    reference: Option<LossRecording>,
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
        if config.adapter_type == AdapterType::Bottleneck {
            return Err(Error::invalid("the adapter type bottleneck needs --engine burn"));
        }
        let is_dora = config.adapter_type == AdapterType::Dora;
        if !is_dora && adapter.iter().any(|(_, _, lora)| lora.magnitude.is_some()) {
            return Err(Error::invalid("the adapter is a DoRA; train it as the adapter type dora"));
        }
        if let Some(module) = adapter.outside_of_blocks() {
            return Err(Error::invalid(format!(
                "the adapter updates `{}`, and LoRA is trained on the blocks' layers alone; train \
                 that module itself by modules-to-save",
                module.path()
            )));
        }
        let (layers, base) = (config.layers(&model.config)?, model.clone());
        let mut adapter = GpuAdapter::trainable(context, model, adapter, is_dora)?;
        let brought = match &adapter.weights {
            None => model,
            Some(brought) => {
                let trains = |name: &str| config.trains_weight(&layers, name);
                if let Some(name) = brought.set.weight_names().find(|name| !trains(name)) {
                    return Err(Error::invalid(format!(
                        "the adapter brings the weight `{name}`, which the settings do not train; \
                         name its module in modules-to-save"
                    )));
                }
                &brought.llama
            }
        };
        let weights =
            GpuWeights::copied(context, brought, &|name| config.trains_weight(&layers, name))?;
        let (model, count) = (weights.llama.clone(), weights.set.count());
        let gradients = weights.set.gradients(context)?;
        let onto = weights.set.onto(&gradients);
        let mut arrays = Vec::new();
        let parameter_gradients = context.storage("gradients", (adapter.count * 4) as u64)?;
        if adapter.count > 0 {
            arrays.push(Parameters {
                values: adapter.parameters.clone(),
                gradients: parameter_gradients.clone(),
                count: adapter.count,
                places: adapter.places(&model.config),
            });
        }
        let pairs = weights.set.buffers().into_iter().zip(gradients.buffers());
        arrays.extend(pairs.map(|((values, count), (gradients, _))| {
            let places = weights.set.places(&values);
            Parameters { values, gradients, count, places }
        }));
        if arrays.is_empty() {
            return Err(Error::invalid("the settings leave nothing to train"));
        }
        let gradients = GpuAdapter {
            parameters: parameter_gradients,
            weights: (count > 0).then(|| GpuWeights { llama: model.clone(), set: gradients }),
            ..adapter.clone()
        };
        adapter.weights = (count > 0).then_some(weights);
        let optimizer = OptimizerState::new(context, arrays, config.rule())?;
        let buffers = StepBuffers::new(context, &model, room.tokens, room.positions)?;
        let step = StepRecording::new(
            context,
            &model,
            &adapter.adapter,
            (&gradients.parameters, &onto),
            &buffers,
            StepOptions { grad_checkpoint: config.grad_checkpoint, dropout: config.dropout },
        )?;
        let validation = LossRecording::new(context, &model, Some(&adapter.adapter), &buffers)?;
        let mut update = Recorder::new(context, &buffers.step);
        gradient_norm(&mut update, &optimizer, config.max_grad_norm)?;
        optimizer.update(&mut update)?;
        let history = context.storage("history", 8 * config.steps_per_report as u64)?;
        Ok(Self {
            context: context.clone(),
            config: config.clone(),
            adapter,
            gradients,
            optimizer,
            buffers,
            history,
            step,
            update: update.finish(),
            validation,
            base,
            reference: None,
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
        self.gradients.download(&self.context).await
    }
}

impl Learner for GpuLearner {
    fn parameter_count(&self) -> usize {
        self.adapter.count + self.adapter.weights.as_ref().map_or(0, |weights| weights.set.count())
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
            update: train.updates as u32,
            seed: (self.config.seed as u32).wrapping_add(train.iteration as u32),
            ..Default::default()
        };
        self.buffers.write(&self.context, &batch.tokens, &batch.targets, &step);

        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        if train.first {
            for array in &self.optimizer.arrays {
                encoder.clear_buffer(&array.parameters.gradients, 0, None);
            }
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
        if let Some(loss) = train.loss {
            self.context.write(&self.history, slot, &loss.to_le_bytes());
        }
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

    async fn token_losses(&mut self, batch: &Batch, trained: bool) -> Result<Vec<f32>> {
        let step = Step { tokens: batch.tokens.len() as u32, ..Default::default() };
        self.buffers.write(&self.context, &batch.tokens, &batch.targets, &step);
        let recording = match trained {
            true => &self.validation,
            false => {
                if self.reference.is_none() {
                    let reference =
                        LossRecording::new(&self.context, &self.base, None, &self.buffers)?;
                    self.reference = Some(reference);
                }
                self.reference.as_ref().unwrap_or(&self.validation)
            }
        };
        recording.recording().submit(step.tokens, 1)?;
        self.context.read(self.buffers.token_losses(), 0, batch.tokens.len()).await
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
        let norm: Vec<f32> = self.context.read(&self.optimizer.clip, 1, 1).await?;
        let mut state = LearnerState {
            gradient_norm: norm[0],
            updates: self.updates,
            ..LearnerState::default()
        };
        for array in &self.optimizer.arrays {
            let Parameters { values, gradients, count, .. } = &array.parameters;
            for (buffer, count, values) in [
                (values, count, &mut state.parameters),
                (&array.first.0, &array.first.1, &mut state.first_moments),
                (&array.second.0, &array.second.1, &mut state.second_moments),
                (gradients, count, &mut state.gradients),
            ] {
                values.extend(self.context.read::<f32>(buffer, 0, *count).await?);
            }
        }
        Ok(state)
    }

    fn restore(&mut self, state: &LearnerState) -> Result<()> {
        let arrays = &self.optimizer.arrays;
        let moments = [
            arrays.iter().map(|array| array.first.1).sum(),
            arrays.iter().map(|array| array.second.1).sum(),
        ];
        state.check(self.optimizer.count(), moments)?;
        let mut rest =
            [&state.parameters[..], &state.first_moments, &state.second_moments, &state.gradients];
        for array in arrays {
            let Parameters { values, gradients, count, .. } = &array.parameters;
            for ((buffer, count), rest) in [
                (values, *count),
                (&array.first.0, array.first.1),
                (&array.second.0, array.second.1),
                (gradients, *count),
            ]
            .into_iter()
            .zip(&mut rest)
            {
                let (own, others) = rest.split_at(count);
                self.context.write(buffer, 0, bytemuck::cast_slice(own));
                *rest = others;
            }
        }
        let norm = bytemuck::bytes_of(&state.gradient_norm);
        self.context.write(&self.optimizer.clip, 4, norm);
        self.context.write(&self.history, 0, bytemuck::cast_slice(&state.history));
        self.updates = state.updates;
        Ok(())
    }

    fn parameter_names(&self) -> Vec<(String, Range<usize>)> {
        let starts = self.adapter.adapter.iter().flat_map(|(layer, target, lora)| {
            let name = move |array| format!("model.layers.{layer}.{}.{array}", target.path());
            lora.arrays().map(move |(array, place)| (name(array), place.offset))
        });
        let mut starts: Vec<(String, usize)> = starts.collect();
        if let Some(GpuWeights { set, .. }) = &self.adapter.weights {
            let mut end = self.adapter.count;
            for (name, (_, count)) in set.buffer_names().into_iter().zip(set.buffers()) {
                starts.push((name, end));
                end += count;
            }
        }
        let end = self.optimizer.count();
        let ends = starts.iter().skip(1).map(|(_, start)| *start).chain([end]);
        let ends: Vec<usize> = ends.collect();
        starts.into_iter().zip(ends).map(|((name, start), end)| (name, start..end)).collect()
    }

    async fn adapter(&self) -> Result<AnyAdapter> {
        Ok(AnyAdapter::Lora(self.adapter_tensors().await?))
    }
}
