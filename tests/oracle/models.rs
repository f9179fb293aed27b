//! Whole models: logits, loss and every gradient by our kernels and by burn.

use engram::burn::{AdapterKind, LoraConfig, LoraModule};
use engram::data::batch::{BatchConfig, BatchSet, Semantics};
use engram::data::tokens::Example;
use engram::formats::Checkpoint;
use engram::generate::GpuModel;
use engram::model::{Adapter, AdapterTensors, AnyAdapter, GpuAdapter, Quantize};
use engram::ops::{Lora, WeightGradients};
use engram::train::{BurnLearner, StepBuffers, StepOptions, StepRecording, TrainConfig, TrainData};

use crate::common::*;
use crate::{burn_model, on_burn};

/// Examples of which some have prompts that don't count, one has a single token that does.
fn examples(vocab: u32) -> Vec<Example> {
    let ids = |length: u32, salt: u32| (0..length).map(|i| (i * 31 + salt) % vocab).collect();
    [(9, 3, 4), (2, 5, 0), (17, 11, 16), (5, 2, 2)]
        .map(|(length, salt, prompt_len)| Example::new(ids(length, salt), prompt_len))
        .into()
}

/// A flat array in the order of the adapter's parameters.
fn like(adapter: &AdapterTensors, flat: &[f32]) -> AdapterTensors {
    let mut rest = flat;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at(count);
        rest = left;
        taken.to_vec()
    };
    Adapter::new(adapter.iter().map(|(layer, target, lora)| {
        let (a, b) = (take(lora.a.len()), take(lora.b.len()));
        ((layer, target), Lora { a, b, ..lora.clone() })
    }))
}

async fn check(checkpoint: Checkpoint, layers: std::ops::Range<usize>, rank: usize) {
    let context = context().await;
    let llama = load(&context, &checkpoint, Some(Quantize::F32)).await;
    let engine = on_burn(&checkpoint).await;
    let adapter = hash_adapter(&llama.config, layers, rank, 2.0, 0.3);

    let ids: Vec<u32> = (0..40).map(|i| (i * 29 + 1) % llama.config.vocab_size as u32).collect();
    let gpu = on_gpu(&context, &llama);
    let any = AnyAdapter::Lora(adapter.clone());
    let mut logits = Vec::new();
    for model in [&gpu, engine.model()] {
        let loaded = model.load_adapter("hashed", &any).unwrap();
        let mut forward = engram::generate::Forward::new(model, Some(&loaded), 40).unwrap();
        forward.run(&ids).unwrap();
        logits.push(forward.logits(8, 32).await.unwrap());
    }
    let error = relative_error(&logits[0], &logits[1]);
    assert!(error <= 1e-5, "the logits are off by {error:e}");

    let config =
        BatchConfig { semantics: Semantics::Engram, batch_size: 4, max_seq_length: 2048, seed: 0 };
    let set = BatchSet::new(examples(llama.config.vocab_size as u32), config).unwrap();
    let batch = set.pack(&[0, 1, 2, 3]);
    let room = TrainData::new(set, None, &llama.config).unwrap().room();
    for grad_checkpoint in [false, true] {
        let buffers = StepBuffers::new(&context, &llama, room.tokens, room.positions).unwrap();
        let step = engram::gpu::Step { tokens: batch.tokens.len() as u32, ..Default::default() };
        buffers.write(&context, &batch.tokens, &batch.targets, &step);
        let GpuModel { context, llama } = gpu.gpu().unwrap();
        let on_gpu = GpuAdapter::upload(context, &adapter).unwrap();
        let found = context.storage("gradients", (on_gpu.count * 4) as u64).unwrap();
        let options = StepOptions { grad_checkpoint, ..Default::default() };
        let onto = (&found, &WeightGradients::default());
        StepRecording::new(context, llama, &on_gpu.adapter, onto, &buffers, options)
            .unwrap()
            .recording()
            .submit(step.tokens, 1)
            .unwrap();
        let loss = context.read::<f32>(&buffers.loss, 0, 1).await.unwrap()[0];
        let gradients = GpuAdapter { parameters: found, ..on_gpu.clone() };
        let gradients = gradients.download(context).await.unwrap();

        let model = burn_model(&engine);
        let modules = LoraModule::load(model, "hashed", &any).unwrap();
        let kind = LoraConfig { rank, scale: 2.0 };
        let config = TrainConfig { grad_checkpoint, ..Default::default() };
        let learner = BurnLearner::new(model, modules, kind, room, &config);
        let (expected_loss, expected) = learner.loss_and_gradients(&batch).unwrap();
        let expected_loss = engram::burn::read(expected_loss).await.unwrap()[0];
        let expected = engram::burn::read(expected).await.unwrap();
        let off = (loss / expected_loss - 1.0).abs();
        assert!(off <= 1e-5, "the loss is {loss}, burn has {expected_loss}");
        let what = format!("grad_checkpoint {grad_checkpoint}");
        assert_adapters(&what, &gradients, &like(&adapter, &expected), 1e-4);
    }
}

#[async_test]
async fn a_model_with_grouped_heads() {
    check(open_folder("tiny").await, 0..3, 3).await;
}

#[async_test]
async fn a_model_whose_first_block_is_frozen() {
    check(open_folder("tiny").await, 2..3, 1).await;
}

#[async_test]
async fn an_odd_model_with_biases() {
    check(open_folder("tiny_odd").await, 0..2, 5).await;
}
