//! Gradients of whole models towards their own weights, and full fine-tuning, against PyTorch in
//! float64.

use std::rc::Rc;

use crate::common::*;
use engram::data::batch::{BatchConfig, BatchSet, Semantics};
use engram::generate::{GpuModel, LoadedAdapter, Model};
use engram::gpu::Step;
use engram::model::{Adapter, AnyAdapter, GpuWeights, Quantize};
use engram::train::{
    AdapterType, Event, StepBuffers, StepOptions, StepRecording, TrainConfig, Trainer,
};

/// The batch of the LoRA gradients.
fn batch(golden: &Golden) -> BatchSet {
    let examples = golden_examples(golden);
    let batch_size = examples.len();
    let semantics = Semantics::Engram;
    let config = BatchConfig { semantics, batch_size, max_seq_length: 2048, seed: 0 };
    BatchSet::new(examples, config).unwrap()
}

#[async_test]
async fn gradients_of_all_weights_are_those_of_pytorch() {
    let context = context().await;
    for (name, batch_of) in
        [("tiny", "tiny_lora_grads_all_r3"), ("tiny_odd", "tiny_odd_lora_grads_last1_r5")]
    {
        let golden = Golden::open(&format!("{name}_full_grads.safetensors"));
        let set = batch(&Golden::open(&format!("{batch_of}.safetensors")));
        let model = load(&context, &open_folder(name).await, Some(Quantize::F32)).await;
        let weights = GpuWeights::copied(&context, &model, &|_| true).unwrap();
        let batch = set.pack(&[0, 1, 2]);
        let room = (set.most_tokens(), set.longest());
        let buffers = StepBuffers::new(&context, &model, room.0, room.1).unwrap();
        let step = Step { tokens: batch.tokens.len() as u32, ..Default::default() };
        buffers.write(&context, &batch.tokens, &batch.targets, &step);
        for checkpoint in [false, true] {
            let gradients = weights.set.gradients(&context).unwrap();
            let unused = context.storage("gradients", 4).unwrap();
            let onto = weights.set.onto(&gradients);
            let targets = (&unused, &onto);
            let options = StepOptions { grad_checkpoint: checkpoint, ..Default::default() };
            let (llama, none) = (&weights.llama, Adapter::new([]));
            let recording = StepRecording::new(&context, llama, &none, targets, &buffers, options);
            context.write(&buffers.loss, 0, &[0; 4]);
            recording.unwrap().recording().submit(step.tokens, 1).unwrap();
            let loss = context.read::<f32>(&buffers.loss, 0, 1).await.unwrap()[0];
            assert_near(name, loss, golden.f64("loss")[0], 1e-5);
            let found = gradients.download(&context).await.unwrap();
            let names = golden.names("grad.");
            assert_eq!(names.len(), found.len(), "{name}");
            for key in names {
                let (expected, found) = (golden.f32(key), &found[&key["grad.".len()..]].values);
                // The golden file may have the first rows alone.
                let error = relative_error(&found[..expected.len()], &expected);
                assert!(error <= 1e-5, "{name}, grad_checkpoint {checkpoint}: {key} {error:e}");
            }
        }
    }
}

#[async_test]
async fn full_fine_tuning_takes_pytorchs_steps_and_its_weights_come_back() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny").await, None).await;
    let losses = Golden::open("tiny_full_steps.safetensors").f64("losses");
    let set = batch(&Golden::open("tiny_lora_grads_last2_r4.safetensors"));
    let config = TrainConfig {
        adapter_type: AdapterType::Full,
        num_layers: 2,
        batch_size: 3,
        iters: 11,
        learning_rate: 3e-3,
        steps_per_report: 1,
        ..Default::default()
    };
    let initial = config.initial_adapter(&model.config).unwrap();
    let ids: Vec<u32> = (3..40).collect();
    let before = gpu_logits(&context, &model, &ids).await;
    let mut trainer = Trainer::new(&context, &model, &initial, set, None, &config).unwrap();
    let mut resumed = None;
    for (i, &expected) in losses.iter().enumerate() {
        let Some(Event::Reported { loss, .. }) = trainer.advance().await.unwrap() else {
            panic!("no report of iteration {i}")
        };
        assert_near(&format!("loss {i}"), loss, expected, 2e-5);
        if i == 4 {
            let checkpoint = trainer.save().await.unwrap();
            let set = batch(&Golden::open("tiny_lora_grads_last2_r4.safetensors"));
            let again = Trainer::resume(&context, &model, set, None, &checkpoint).unwrap();
            resumed = Some(again);
        }
    }
    let mut resumed = resumed.unwrap();
    while resumed.advance().await.unwrap().is_some() {}
    let tuned = trainer.adapter_tensors().await.unwrap();
    assert_eq!(tuned, resumed.adapter_tensors().await.unwrap());
    assert_eq!(tuned.weights().len(), 2 * 9);
    tuned.check("tuned", &model.config).unwrap();

    // The base is as it was; the adapter's files make the tuned one of it again.
    let after = gpu_logits(&context, &model, &ids).await;
    assert_eq!(before, after);
    let base = Model::Gpu(GpuModel { context: context.clone(), llama: Rc::clone(&model) });
    let trained = LoadedAdapter::Gpu(trainer.adapter().clone());
    let loaded = base.load_adapter("tuned", &AnyAdapter::Lora(tuned)).unwrap();
    let logits = async |adapter: &LoadedAdapter| {
        let mut decoder = engram::generate::Decoder::new(&base, Some(adapter)).unwrap();
        decoder.prefill(&ids).unwrap();
        decoder.logits().await.unwrap()
    };
    let (trained, loaded) = (logits(&trained).await, logits(&loaded).await);
    assert_eq!(trained, loaded);
    assert_ne!(loaded, before[before.len() - loaded.len()..]);
}
