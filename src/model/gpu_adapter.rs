//! An adapter on the GPU, all of its parameters in one buffer.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{Adapter, AdapterTensors, GpuLlama, GpuWeights, ModelConfig, Module, Target};
use crate::gpu::{Buffer, Context, Recorder, Step};
use crate::kernels::dora::dora_lengths;
use crate::kernels::fuse::{Update, fuse};
use crate::kernels::lora::Param;
use crate::kernels::optimizer::Place;
use crate::ops::{Lora, Parameter};
use crate::{Error, Result};

/// An adapter on the GPU; a clone shares it.
#[derive(Debug, Clone)]
pub struct GpuAdapter {
    /// Where in [`Self::parameters`] each update lies.
    pub adapter: Rc<Adapter<Lora<Parameter>>>,
    /// (count) f32: `a`, `b` and DoRA's magnitude of every update, in the order of
    /// [`Adapter::modules`].
    pub parameters: Buffer,
    /// Number of parameters.
    pub count: usize,
    /// The weights that it brings along, and the model that has them.
    pub weights: Option<GpuWeights>,
}

impl GpuAdapter {
    /// Copies `tensors` to the device of `context`, with the weights that they bring along for a
    /// copy of `llama`. They have to be [`AdapterTensors::check`]ed for that model.
    ///
    /// A DoRA update is put into the weights of its layer, which then are a copy in f32: it has no
    /// parameters on the device any more.
    ///
    /// # Errors
    /// More parameters than a buffer of the device holds; too little memory.
    pub fn load(context: &Context, llama: &GpuLlama, tensors: &AdapterTensors) -> Result<Self> {
        let is_dora = |lora: &Lora<Vec<f32>>| lora.magnitude.is_some();
        let name = |layer, target: Target| format!("model.layers.{layer}.{}.weight", target.path());
        let dora = || tensors.iter().filter(|(_, _, lora)| is_dora(lora));
        let fused: BTreeSet<String> =
            dora().map(|(layer, target, _)| name(layer, target)).collect();
        let plain = tensors.modules().filter(|(_, lora)| !is_dora(lora));
        let plain = plain.map(|(module, lora)| (module, lora.clone()));
        let adapter = Self::upload(context, &Adapter::of_modules(plain))?;
        if fused.is_empty() && tensors.weights().is_empty() {
            return Ok(adapter);
        }
        let weights = GpuWeights::replaced(context, llama, tensors.weights(), &fused)?;
        let step = context.uniform("step", size_of::<Step>() as u64)?;
        let mut recorder = Recorder::new(context, &step);
        for (layer, target, lora) in dora() {
            let magnitude = lora.magnitude.as_deref().unwrap_or_default();
            let parameters = [&lora.a[..], &lora.b, magnitude].concat();
            let buffer = context.storage_from("update", &parameters)?;
            let update = Update {
                a: Param { buffer: &buffer, offset: 0 },
                b: lora.a.len() as u32,
                magnitude: Some((lora.a.len() + lora.b.len()) as u32),
                rank: lora.rank,
                scale: lora.scale,
            };
            fuse(&mut recorder, update, &weights.llama.linear(layer, target).weight)?;
        }
        recorder.finish().submit(1, 1)?;
        Ok(Self { weights: Some(weights), ..adapter })
    }

    /// As [`Self::load`], with every update as parameters to train, DoRA's too. Where `is_dora`, those
    /// without a magnitude get that of the weights as they are updated.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn trainable(
        context: &Context,
        llama: &GpuLlama,
        tensors: &AdapterTensors,
        is_dora: bool,
    ) -> Result<Self> {
        let weights = match tensors.weights().is_empty() {
            true => None,
            false => {
                Some(GpuWeights::replaced(context, llama, tensors.weights(), &BTreeSet::new())?)
            }
        };
        let llama = weights.as_ref().map_or(llama, |weights| &weights.llama);
        let mut fresh = Vec::new();
        let mut complete = |(module, lora): (Module, &Lora<Vec<f32>>)| {
            let mut lora = lora.clone();
            if let (true, None, Module::Linear(layer, target)) = (is_dora, &lora.magnitude, module)
            {
                let weight = &llama.linear(layer, target).weight;
                lora.magnitude = Some(vec![0.0; weight.rows()]);
                fresh.push((module, weight));
            }
            (module, lora)
        };
        let updates: Vec<_> = tensors.modules().map(&mut complete).collect();
        let adapter = Self::upload(context, &Adapter::of_modules(updates))?;
        let step = context.uniform("step", size_of::<Step>() as u64)?;
        let (mut recorder, mut copies) = (Recorder::new(context, &step), Vec::new());
        for (module, weight) in fresh {
            let Some(update) = adapter.adapter.of(module) else { continue };
            let Some(magnitude) = &update.magnitude else { continue };
            let lengths = context.storage("lengths", (weight.rows() * 4) as u64)?;
            dora_lengths(&mut recorder, weight, &update.whole()?, &lengths)?;
            copies.push((lengths, magnitude));
        }
        // A dispatch can't write into a buffer that it reads.
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let recording = recorder.finish();
        recording.encode(&mut encoder, 1, 1)?;
        for (lengths, to) in &copies {
            let at = (to.offset * 4) as u64;
            encoder.copy_buffer_to_buffer(lengths, 0, &to.buffer, at, Some(lengths.size()));
        }
        context.submit(encoder);
        Ok(Self { weights, ..adapter })
    }

    /// Copies an adapter of updates alone to the device of `context`; see [`Self::load`]. DoRA's updates
    /// stay what they are.
    ///
    /// # Errors
    /// As [`Self::load`]; weights among `tensors`, which need the model.
    pub fn upload(context: &Context, tensors: &AdapterTensors) -> Result<Self> {
        if !tensors.weights().is_empty() {
            return Err(Error::invalid(
                "the adapter changes weights of the model; load it with its model",
            ));
        }
        let magnitude = |lora: &Lora<Vec<f32>>| lora.magnitude.as_ref().map_or(0, Vec::len);
        let size = |lora: &Lora<Vec<f32>>| lora.a.len() + lora.b.len() + magnitude(lora);
        let count: usize = tensors.modules().map(|(_, lora)| size(lora)).sum();
        // Kernels count them in u32.
        if u32::try_from(count).is_err() {
            return Err(Error::Gpu(format!("an adapter of {count} parameters is too large")));
        }
        let parameters = context.storage("adapter", (count * 4) as u64)?;
        let mut end = 0;
        let mut place = |values: &[f32]| {
            let offset = end;
            context.write(&parameters, (offset * 4) as u64, bytemuck::cast_slice(values));
            end += values.len();
            Parameter { buffer: parameters.clone(), offset }
        };
        let updates: Vec<_> = tensors
            .modules()
            .map(|(module, lora)| {
                let (a, b) = (place(&lora.a), place(&lora.b));
                let magnitude = lora.magnitude.as_deref().map(&mut place);
                (module, Lora { a, b, rank: lora.rank, scale: lora.scale, magnitude })
            })
            .collect();
        let adapter = Rc::new(Adapter::of_modules(updates));
        Ok(Self { adapter, parameters, count, weights: None })
    }

    /// What its parameters are, for update rules that treat matrices as such; the adapter is one of a
    /// model of `config`.
    pub fn places(&self, config: &ModelConfig) -> Vec<Place> {
        let arrays = |(module, lora): (Module, &Lora<Parameter>)| {
            let (ins, outs) = module.shape(config);
            let a = Place::matrix(lora.a.offset, ins, lora.rank, lora.rank);
            let b = Place::matrix(lora.b.offset, lora.rank, outs, outs);
            let magnitude = lora.magnitude.as_ref();
            [Some(a), Some(b), magnitude.map(|m| Place::vector(m.offset, outs))]
        };
        self.adapter.modules().flat_map(arrays).flatten().collect()
    }

    /// Copies the parameters back.
    pub async fn download(&self, context: &Context) -> Result<AdapterTensors> {
        let values: Vec<f32> = context.read(&self.parameters, 0, self.count).await?;
        // Each array ends where the next begins.
        let arrays = self.adapter.modules().flat_map(|(_, lora)| lora.arrays());
        let mut ends = arrays.map(|(_, array)| array.offset).skip(1).chain([self.count]);
        let mut array = |start: usize| {
            let end = ends.next().unwrap_or(self.count);
            values.get(start..end).map(<[f32]>::to_vec).ok_or_else(|| {
                Error::invalid("the adapter's parameters are not in its own order in its buffer")
            })
        };
        let mut updates = Vec::new();
        for (module, lora) in self.adapter.modules() {
            let (a, b) = (array(lora.a.offset)?, array(lora.b.offset)?);
            let magnitude = lora.magnitude.as_ref().map(|m| array(m.offset)).transpose()?;
            let lora = Lora { a, b, rank: lora.rank, scale: lora.scale, magnitude };
            updates.push((module, lora));
        }
        let weights = match &self.weights {
            Some(weights) => weights.set.download(context).await?,
            None => Default::default(),
        };
        Ok(Adapter::of_modules(updates).with_weights(weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::{noise, test_context};
    use crate::model::Target;
    use crate::testing::async_test;

    #[async_test]
    async fn comes_back_from_the_gpu_as_it_went_there() {
        let context = test_context().await;
        let lora = |seed, ins, outs, rank| {
            let (a, b) = (noise(seed, ins * rank), noise(seed + 1, rank * outs));
            Lora { a, b, rank, scale: seed as f32, magnitude: None }
        };
        let dora = |lora| Lora { magnitude: Some(noise(20, 9)), ..lora };
        let tensors = Adapter::of_modules([
            (Module::Head, lora(7, 2, 3, 1)),
            ((3, Target::Down).into(), lora(1, 7, 5, 3)),
            ((3, Target::Q).into(), dora(lora(3, 5, 9, 1))),
            (Module::Embedding, lora(9, 3, 2, 2)),
            ((1, Target::Up).into(), lora(5, 4, 3, 2)),
        ]);
        let gpu = GpuAdapter::upload(&context, &tensors).unwrap();
        assert_eq!(gpu.count, 3 * 2 + 2 * 2 + 7 * 3 + 3 * 5 + 5 + 9 + 9 + 4 * 2 + 2 * 3 + 2 + 3);
        let offsets: Vec<_> =
            gpu.adapter.modules().map(|(_, l)| (l.a.offset, l.b.offset)).collect();
        assert_eq!(offsets, [(0, 6), (10, 18), (24, 29), (47, 68), (83, 85)]);
        assert_eq!(gpu.download(&context).await.unwrap(), tensors);
    }
}
