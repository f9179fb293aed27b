//! Loss and LoRA gradients of whole models, against those of PyTorch in float64.

use std::rc::Rc;

use crate::common::*;
use engram::data::batch::{BatchConfig, BatchSet, Semantics};
use engram::gpu::{Context, Step};
use engram::model::{Adapter, AdapterTensors, GpuAdapter, GpuLlama, Quantize};
use engram::ops::{Lora, WeightGradients};
use engram::train::{LossRecording, StepBuffers, StepOptions, StepRecording};

/// The examples as one batch whose loss is the mean of its targets.
pub struct Case {
    context: Context,
    model: Rc<GpuLlama>,
    buffers: StepBuffers,
    tokens: u32,
}

impl Case {
    pub fn new(context: &Context, model: &Rc<GpuLlama>, golden: &Golden) -> Self {
        let examples = golden_examples(golden);
        let count = examples.len();
        let config = BatchConfig {
            semantics: Semantics::Engram,
            batch_size: count,
            max_seq_length: 2048,
            seed: 0,
        };
        let set = BatchSet::new(examples, config).unwrap();
        let batch = set.pack(&(0..count as u32).collect::<Vec<_>>());
        let counted: usize = golden.u8("target_mask").iter().map(|&c| usize::from(c)).sum();
        assert_eq!(batch.trained, counted);
        let buffers = StepBuffers::new(context, model, set.most_tokens(), set.longest()).unwrap();
        let step = Step { tokens: batch.tokens.len() as u32, ..Default::default() };
        buffers.write(context, &batch.tokens, &batch.targets, &step);
        Self { context: context.clone(), model: model.clone(), buffers, tokens: step.tokens }
    }

    async fn loss(&self) -> f64 {
        f64::from(self.context.read::<f32>(&self.buffers.loss, 0, 1).await.unwrap()[0])
    }

    fn clear_loss(&self) {
        self.context.write(&self.buffers.loss, 0, &[0; 4]);
    }

    /// The loss without gradients.
    pub async fn loss_alone(&self, adapter: Option<&GpuAdapter>) -> f64 {
        let adapter = adapter.map(|a| &*a.adapter);
        let recording = LossRecording::new(&self.context, &self.model, adapter, &self.buffers);
        self.clear_loss();
        recording.unwrap().recording().submit(self.tokens, 1).unwrap();
        self.loss().await
    }

    /// Loss and gradients; the same replay twice adds them up.
    pub async fn step(
        &self,
        adapter: &GpuAdapter,
        options: StepOptions,
        replays: usize,
    ) -> (f64, AdapterTensors) {
        let bytes = (adapter.count * 4) as u64;
        let gradients = self.context.storage("gradients", bytes).unwrap();
        let (context, model, buffers) = (&self.context, &self.model, &self.buffers);
        let recording = {
            let gradients = (&gradients, &WeightGradients::default());
            StepRecording::new(context, model, &adapter.adapter, gradients, buffers, options)
        };
        self.clear_loss();
        recording.unwrap().recording().submit(self.tokens, replays).unwrap();
        let gradients = GpuAdapter { parameters: gradients, ..adapter.clone() };
        (self.loss().await, gradients.download(context).await.unwrap())
    }
}

#[track_caller]
pub fn assert_loss(what: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-5, "{what}: loss {found}, {expected} is right");
}

#[async_test]
async fn gradients_of_tiny_models_are_those_of_pytorch() {
    let context = context().await;
    let tiny = load(&context, &open_folder("tiny").await, None).await;
    let odd = load(&context, &open_folder("tiny_odd").await, Some(Quantize::F32)).await;
    for (file, model, layers, rank, scale) in [
        ("tiny_lora_grads_last2_r4", &tiny, 1..3, 4, 2.5),
        ("tiny_lora_grads_all_r3", &tiny, 0..3, 3, 2.0),
        ("tiny_odd_lora_grads_last1_r5", &odd, 1..2, 5, 1.0),
    ] {
        let golden = Golden::open(&format!("{file}.safetensors"));
        let adapter = peft_adapter(&golden, "lora.", layers.clone(), rank, scale);
        let adapter = GpuAdapter::upload(&context, &adapter).unwrap();
        let expected = peft_adapter(&golden, "grad.", layers, rank, scale);
        let expected_loss = golden.f64("loss")[0];
        let case = Case::new(&context, model, &golden);
        assert_loss(file, case.loss_alone(Some(&adapter)).await, expected_loss);
        for checkpoint in [false, true] {
            let what = format!("{file}, grad_checkpoint {checkpoint}");
            let options = StepOptions { grad_checkpoint: checkpoint, ..Default::default() };
            let (loss, gradients) = case.step(&adapter, options, 1).await;
            assert_loss(&what, loss, expected_loss);
            assert_adapters(&what, &gradients, &expected, 1e-5);
        }
        let (loss, gradients) = case.step(&adapter, StepOptions::default(), 2).await;
        assert_loss("twice", loss, 2.0 * expected_loss);
        let doubled = Adapter::new(expected.iter().map(|(layer, target, lora)| {
            let twice = |values: &[f32]| values.iter().map(|v| 2.0 * v).collect();
            let lora = Lora { a: twice(&lora.a), b: twice(&lora.b), ..lora.clone() };
            ((layer, target), lora)
        }));
        assert_adapters("twice", &gradients, &doubled, 1e-5);
    }
}

/// Along the gradient the loss must rise by its length, whatever computed the two.
#[async_test]
async fn the_gradient_is_the_slope_of_the_loss() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny").await, None).await;
    let golden = Golden::open("tiny_lora_grads_last2_r4.safetensors");
    let adapter = peft_adapter(&golden, "lora.", 1..3, 4, 2.5);
    let upload = |tensors: &AdapterTensors| GpuAdapter::upload(&context, tensors).unwrap();
    let case = Case::new(&context, &model, &golden);
    let plain = StepOptions::default();
    // What is dropped depends on the step alone, which is the same one.
    let dropping = StepOptions { dropout: 0.3, ..plain };
    let checkpointed = StepOptions { grad_checkpoint: true, ..dropping };
    let mut losses = Vec::new();
    for options in [plain, dropping, checkpointed] {
        let (here, gradients) = case.step(&upload(&adapter), options, 1).await;
        let values = gradients.iter().flat_map(|(_, _, lora)| lora.a.iter().chain(&lora.b));
        let length = values.map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let moved = |distance: f64| {
            let along = |values: &[f32], slopes: &[f32]| {
                let step = distance / length;
                let one = |(&v, &g): (&f32, &f32)| (f64::from(v) + step * f64::from(g)) as f32;
                values.iter().zip(slopes).map(one).collect()
            };
            Adapter::new(adapter.iter().map(|(layer, target, lora)| {
                let slope = gradients.get(layer, target).unwrap();
                let (a, b) = (along(&lora.a, &slope.a), along(&lora.b, &slope.b));
                ((layer, target), Lora { a, b, ..lora.clone() })
            }))
        };
        let loss = async |distance| case.step(&upload(&moved(distance)), options, 1).await.0;
        let slope = (loss(5e-3).await - loss(-5e-3).await) / 1e-2;
        let what = format!("{options:?}: slope {slope}, gradient {length}");
        assert!((slope / length - 1.0).abs() < 2e-3, "{what}");
        losses.push(here);
    }
    assert!((losses[0] - losses[1]).abs() > 1e-3, "nothing was dropped: {losses:?}");
    assert!((losses[1] - losses[2]).abs() < 1e-5, "{losses:?}");
}
