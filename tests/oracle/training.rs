//! Training on both engines: the same data, the same losses.

use engram::burn::{LoraConfig, LoraModule, fresh_on};
use engram::data::batch::{BatchSet, Semantics};
use engram::data::split::{SplitConfig, build};
use engram::data::tokens::LossOn;
use engram::data::{jsonl, patterns, tokens};
use engram::formats::Checkpoint;
use engram::generate::{Engine, GpuModel};
use engram::model::{AnyAdapter, Quantize};
use engram::train::{
    self, BurnLearner, Event, Learner, Optimizer, TrainConfig, TrainData, Trainer,
};

use crate::common::*;
use crate::{burn_model, on_burn};

fn set(engine: &Engine, file: &str, config: &TrainConfig) -> BatchSet {
    let records = jsonl::parse(file, golden_bytes(&format!("tiny_mlx/{file}"))).unwrap();
    let examples = tokens::tokenize(file, &records, engine, config.loss_on()).unwrap();
    BatchSet::new(examples, config.batch_config()).unwrap()
}

pub fn tiny_data(engine: &Engine, config: &TrainConfig) -> TrainData {
    let (train, valid) = (set(engine, "train.jsonl", config), set(engine, "valid.jsonl", config));
    TrainData::new(train, Some(valid), engine.config()).unwrap()
}

/// Losses and gradient norms, in their order.
pub async fn numbers<L: Learner>(trainer: &mut Trainer<L>, iterations: usize) -> Vec<f32> {
    let mut numbers = Vec::new();
    while trainer.iteration() < iterations {
        match trainer.advance().await.unwrap() {
            Some(Event::Validated { loss, .. }) => numbers.push(loss),
            Some(Event::Reported { loss, gradient_norm, .. }) => {
                numbers.extend([loss, gradient_norm]);
            }
            Some(Event::Stepped { .. }) => {}
            None => break,
        }
    }
    numbers
}

pub fn burn_trainer(engine: &Engine, config: &TrainConfig) -> Trainer<BurnLearner<LoraModule>> {
    let model = burn_model(engine);
    let data = tiny_data(engine, config);
    let places = config.linears(engine.config()).unwrap();
    let kind = LoraConfig::from(config);
    let adapter = fresh_on(model, &places, &kind, config.seed).unwrap();
    let learner = BurnLearner::new(model, adapter, kind, data.room(), config);
    Trainer::with(learner, data, config).unwrap()
}

pub fn config() -> TrainConfig {
    TrainConfig {
        iters: 10,
        num_layers: 2,
        rank: 4,
        scale: 2.5,
        learning_rate: 3e-3,
        steps_per_report: 1,
        steps_per_eval: 5,
        max_seq_length: 60,
        seed: 3,
        ..Default::default()
    }
}

#[async_test]
async fn ten_steps_are_those_of_our_kernels() {
    let checkpoint = open_folder("tiny").await;
    let context = context().await;
    let mut ignore = |_, _| Ok(());
    let gpu = Engine::load(&context, &checkpoint, Some(Quantize::F32), &mut ignore).await.unwrap();
    let burn = on_burn(&checkpoint).await;
    let default = config();
    for config in [
        TrainConfig { mask_prompt: true, ..default.clone() },
        TrainConfig {
            semantics: Semantics::Mlx,
            bias_correction: false,
            grad_accumulation_steps: 2,
            ..default.clone()
        },
        TrainConfig {
            optimizer: Optimizer::Adamw,
            weight_decay: 0.1,
            max_grad_norm: Some(0.1),
            grad_checkpoint: true,
            adapter_type: train::AdapterType::Rslora,
            ..default.clone()
        },
        TrainConfig {
            optimizer: Optimizer::Adamw,
            weight_decay: 0.1,
            bias_correction: false,
            ..default
        },
    ] {
        let data = tiny_data(&gpu, &config);
        let GpuModel { context, llama } = gpu.model().gpu().unwrap();
        let initial = config.initial_adapter(gpu.config()).unwrap();
        let learner =
            train::GpuLearner::new(context, llama, &initial, data.room(), &config).unwrap();
        let mut ours = Trainer::with(learner, data, &config).unwrap();
        let mut theirs = burn_trainer(&burn, &config);
        // The same seed starts both with the same values.
        assert_eq!(theirs.any_adapter().await.unwrap(), AnyAdapter::Lora(initial));
        let (found, expected) =
            (numbers(&mut ours, config.iters).await, numbers(&mut theirs, config.iters).await);
        assert_eq!(expected.len(), 2 * 10 + 3);
        assert_close(&format!("{config:?}"), &found, &expected, 1e-4);
    }
}

#[async_test]
async fn a_resumed_run_goes_on_with_the_same_numbers() {
    let engine = on_burn(&open_folder("tiny").await).await;
    let config = TrainConfig { grad_accumulation_steps: 3, steps_per_report: 2, ..config() };
    let mut whole = burn_trainer(&engine, &config);
    numbers(&mut whole, 5).await;
    let saved = whole.save().await.unwrap().to_bytes().unwrap();
    let saved = train::Checkpoint::from_bytes("saved", &saved).unwrap();
    let expected = numbers(&mut whole, config.iters).await;

    let data = tiny_data(&engine, &config);
    let blank = burn_trainer(&engine, &config);
    let learner = BurnLearner::new(
        burn_model(&engine),
        blank.learner().updates().clone(),
        LoraConfig::from(&config),
        data.room(),
        &config,
    );
    let mut resumed = Trainer::resume_with(learner, data, &saved).unwrap();
    assert_eq!(resumed.iteration(), 5);
    assert_eq!(numbers(&mut resumed, config.iters).await, expected);
    assert_eq!(resumed.any_adapter().await.unwrap(), whole.any_adapter().await.unwrap());
}

/// A checkpoint that one engine wrote is one for the other too.
#[async_test]
async fn a_run_may_change_engines() {
    let checkpoint = open_folder("tiny").await;
    let context = context().await;
    let gpu = engine(&context, &checkpoint).await;
    let burn = on_burn(&checkpoint).await;
    let config = config();
    let mut trainer = burn_trainer(&burn, &config);
    numbers(&mut trainer, 6).await;
    let saved = trainer.save().await.unwrap();
    let expected = numbers(&mut trainer, config.iters).await;
    let GpuModel { context, llama } = gpu.model().gpu().unwrap();
    let (train, valid) = (set(&gpu, "train.jsonl", &config), set(&gpu, "valid.jsonl", &config));
    let mut resumed = Trainer::resume(context, llama, train, Some(valid), &saved).unwrap();
    let found = numbers(&mut resumed, config.iters).await;
    assert_close("after the change", &found, &expected, 1e-4);
}

#[async_test]
async fn an_update_that_is_not_finite_is_left_out() {
    let engine = on_burn(&open_folder("tiny").await).await;
    let config = TrainConfig { learning_rate: 1e20, ..config() };
    let mut trainer = burn_trainer(&engine, &config);
    let error = loop {
        match trainer.advance().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the losses stayed finite"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("is not finite"), "{error}");
    // What is saved is sound.
    trainer.save().await.unwrap().to_bytes().unwrap();
}

/// One step of the experiment: 4 chats, rank 8, the last 16 of 30 blocks.
#[async_test]
async fn the_first_loss_of_the_experiment_is_that_of_our_kernels() {
    let checkpoint: Checkpoint = file::open_real().await;
    let context = context().await;
    let config =
        TrainConfig { iters: 1, steps_per_report: 1, val_batches: 0, ..Default::default() };
    let splits = build(&patterns::read(&patterns::BUNDLED).unwrap(), &SplitConfig::default());
    let records = splits.unwrap().train;
    let data = |engine: &Engine| {
        let examples = tokens::tokenize("train", &records, engine, LossOn::Everything).unwrap();
        let set = BatchSet::new(examples, config.batch_config()).unwrap();
        TrainData::new(set, None, engine.config()).unwrap()
    };

    let burn = on_burn(&checkpoint).await;
    let (of_burn, model) = (data(&burn), burn_model(&burn));
    let places = config.linears(burn.config()).unwrap();
    let kind = LoraConfig::from(&config);
    let adapter = fresh_on::<LoraModule>(model, &places, &kind, config.seed).unwrap();
    let learner = BurnLearner::new(model, adapter, kind, of_burn.room(), &config);
    let expected = numbers(&mut Trainer::with(learner, of_burn, &config).unwrap(), 1).await;
    drop(burn);

    let gpu = engine(&context, &checkpoint).await;
    let of_gpu = data(&gpu);
    let GpuModel { context, llama } = gpu.model().gpu().unwrap();
    let initial = config.initial_adapter(gpu.config()).unwrap();
    let learner = train::GpuLearner::new(context, llama, &initial, of_gpu.room(), &config).unwrap();
    let found = numbers(&mut Trainer::with(learner, of_gpu, &config).unwrap(), 1).await;
    let off = (found[0] - expected[0]).abs();
    assert!(off <= 1e-4, "the loss is {}, burn has {}", found[0], expected[0]);
    assert!((found[1] / expected[1] - 1.0).abs() <= 1e-3, "norms {} and {}", found[1], expected[1]);
}
