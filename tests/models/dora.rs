//! DoRA in training: loss, gradients and steps of PEFT's goldens.

use std::rc::Rc;

use crate::adapters::read_for;
use crate::common::*;
use crate::lora_grads::{Case, assert_loss};
use engram::data::batch::BatchSet;
use engram::formats::adapter::{PeftOptions, write_peft};
use engram::generate::{Decoder, GpuModel, LoadedAdapter, Model};
use engram::gpu::Context;
use engram::kernels::kv::KvType;
use engram::model::{Adapter, AdapterTensors, AnyAdapter, GpuAdapter, GpuLlama, Quantize};
use engram::ops::Lora;
use engram::train::{AdapterType, Checkpoint, Event, StepOptions, TrainConfig, Trainer};

struct Dora {
    context: Context,
    model: Rc<GpuLlama>,
    golden: Golden,
    tensors: AdapterTensors,
    config: TrainConfig,
}

impl Dora {
    /// That of `model`, of which `tiny` has four blocks, the last two adapted, and `tiny_odd`, which has
    /// biases, its last one.
    async fn open(model: &str) -> Self {
        let context = context().await;
        let tensors = read_for(&format!("{model}_adapter_dora"), None).await;
        let golden = Golden::open(&format!("{model}_adapter_types.safetensors"));
        let model = load(&context, &open_folder(model).await, Some(Quantize::F32)).await;
        let blocks = model.config.num_hidden_layers - tensors.first_layer().unwrap();
        let config = TrainConfig {
            adapter_type: AdapterType::Dora,
            rank: 3,
            scale: 2.5,
            num_layers: blocks as i64,
            batch_size: golden_examples(&golden).len(),
            iters: 10,
            learning_rate: 1e-3,
            steps_per_report: 1,
            val_batches: 0,
            ..Default::default()
        };
        Self { context, model, golden, tensors, config }
    }

    fn set(&self) -> BatchSet {
        BatchSet::new(golden_examples(&self.golden), self.config.batch_config()).unwrap()
    }

    fn upload(&self, tensors: &AdapterTensors) -> GpuAdapter {
        GpuAdapter::trainable(&self.context, &self.model, tensors, true).unwrap()
    }

    /// The gradients in the places of the parameters are written as the adapter would be.
    #[track_caller]
    fn assert_gradients(&self, what: &str, gradients: &AdapterTensors) {
        let file = write_peft(gradients, &self.model.config, &PeftOptions::default()).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file.weights).unwrap();
        let names = self.golden.names("dora.grad.");
        assert_eq!(file.names().len(), names.len(), "{what}");
        for name in names {
            let tensor = file.tensor(name.strip_prefix("dora.grad.").unwrap()).unwrap();
            let found: Vec<f32> = bytemuck::pod_collect_to_vec(tensor.data());
            let error = relative_error(&found, &self.golden.f32(name));
            assert!(error <= 1e-5, "{what}: {name} is off by {error:e}");
        }
    }
}

#[async_test]
async fn loss_and_gradients_are_those_of_peft() {
    for model in ["tiny", "tiny_odd"] {
        let dora = Dora::open(model).await;
        let case = Case::new(&dora.context, &dora.model, &dora.golden);
        let (adapter, expected) = (dora.upload(&dora.tensors), dora.golden.f64("dora.loss")[0]);
        assert_loss(model, case.loss_alone(Some(&adapter)).await, expected);
        for grad_checkpoint in [false, true] {
            let what = format!("{model}, grad_checkpoint {grad_checkpoint}");
            let options = StepOptions { grad_checkpoint, ..Default::default() };
            let (loss, gradients) = case.step(&adapter, options, 1).await;
            assert_loss(&what, loss, expected);
            dora.assert_gradients(&what, &gradients);
        }
    }
}

#[async_test]
async fn its_steps_are_those_of_peft_across_a_checkpoint() {
    for model in ["tiny", "tiny_odd"] {
        let dora = Dora::open(model).await;
        let losses = dora.golden.f64("dora.losses");
        let Dora { context, model: llama, config, tensors, .. } = &dora;
        let mut trainer = Trainer::new(context, llama, tensors, dora.set(), None, config).unwrap();
        for (i, &expected) in losses.iter().enumerate() {
            let Some(Event::Reported { loss, .. }) = trainer.advance().await.unwrap() else {
                panic!("no report of iteration {i}")
            };
            assert_near(&format!("{model}, loss {i}"), loss, expected, 1e-4);
            if i == 4 {
                let bytes = trainer.save().await.unwrap().to_bytes().unwrap();
                let checkpoint = Checkpoint::from_bytes(model, &bytes).unwrap();
                trainer = Trainer::resume(context, llama, dora.set(), None, &checkpoint).unwrap();
            }
        }
        // What is trained and the weights that its file makes give the same words.
        let base = Model::Gpu(GpuModel { context: context.clone(), llama: Rc::clone(llama) });
        let trained = LoadedAdapter::Gpu(trainer.adapter().clone());
        let file = AnyAdapter::Lora(trainer.adapter_tensors().await.unwrap());
        let loaded = base.load_adapter("trained", &file).unwrap();
        let ids = dora.golden.u32("sequence");
        let (last, first) = ids.split_last().unwrap();
        let logits = async |adapter: &LoadedAdapter| {
            let mut decoder = Decoder::with_cache(&base, Some(adapter), KvType::F32).unwrap();
            decoder.prefill(first).unwrap();
            decoder.advance(*last).unwrap();
            decoder.logits().await.unwrap()
        };
        assert_nmse(model, &logits(&trained).await, &logits(&loaded).await, 1e-10);
    }
}

#[async_test]
async fn a_new_one_changes_nothing_and_has_the_lengths_of_the_weights() {
    let dora = Dora::open("tiny_odd").await;
    let case = Case::new(&dora.context, &dora.model, &dora.golden);
    let initial = dora.config.initial_adapter(&dora.model.config).unwrap();
    let adapter = dora.upload(&initial);
    let (fresh, base) = (case.loss_alone(Some(&adapter)).await, case.loss_alone(None).await);
    assert!((fresh - base).abs() < 1e-6, "{fresh} {base}");
    let tensors = adapter.download(&dora.context).await.unwrap();
    tensors.check("new", &dora.model.config).unwrap();
    for (layer, target, lora) in tensors.iter() {
        let weight = &dora.model.linear(layer, target).weight;
        let values = weight.read_f32(&dora.context).await.unwrap();
        let rows = values.chunks_exact(weight.cols());
        let lengths: Vec<f32> =
            rows.map(|row| row.iter().map(|w| w * w).sum::<f32>().sqrt()).collect();
        assert_close("magnitudes", lora.magnitude.as_ref().unwrap(), &lengths, 1e-5);
    }
}

/// Dropout is in the way of the update alone, as in MLX-LM.
#[async_test]
async fn the_gradient_of_the_magnitudes_is_the_slope_of_the_loss() {
    let dora = Dora::open("tiny_odd").await;
    let case = Case::new(&dora.context, &dora.model, &dora.golden);
    let mut losses = Vec::new();
    for dropout in [0.0, 0.3] {
        let options = StepOptions { dropout, ..Default::default() };
        let (loss, gradients) = case.step(&dora.upload(&dora.tensors), options, 1).await;
        losses.push(loss);
        let slopes = |layer, target| {
            let lora: &Lora<Vec<f32>> = gradients.get(layer, target).unwrap();
            lora.magnitude.clone().unwrap()
        };
        let all = dora.tensors.iter().flat_map(|(layer, target, _)| slopes(layer, target));
        let length = all.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        // The lengths that they are divided by don't change with them, so the slope is exact.
        let moved = |distance: f64| {
            Adapter::new(dora.tensors.iter().map(|(layer, target, lora)| {
                let along = lora.magnitude.iter().flatten().zip(slopes(layer, target));
                let one =
                    |(&m, slope)| (f64::from(m) + distance / length * f64::from(slope)) as f32;
                let magnitude = Some(along.map(one).collect());
                ((layer, target), Lora { magnitude, ..lora.clone() })
            }))
        };
        let loss = async |distance| case.step(&dora.upload(&moved(distance)), options, 1).await.0;
        let slope = (loss(5e-3).await - loss(-5e-3).await) / 1e-2;
        let what = format!("dropout {dropout}: slope {slope}, gradient {length}");
        assert!((slope / length - 1.0).abs() < 2e-3, "{what}");
    }
    assert!((losses[0] - losses[1]).abs() > 1e-4, "nothing was dropped: {losses:?}");
}

#[async_test]
async fn a_dora_is_no_lora() {
    let dora = Dora::open("tiny_odd").await;
    let config = TrainConfig { adapter_type: AdapterType::Lora, ..dora.config.clone() };
    let of =
        |config| Trainer::new(&dora.context, &dora.model, &dora.tensors, dora.set(), None, config);
    of(&dora.config).unwrap();
    let error = of(&config).unwrap_err().to_string();
    assert!(error.contains("train it as the adapter type dora"), "{error}");
}
