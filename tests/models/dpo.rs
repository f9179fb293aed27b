//! Preference training on the tiny model, against TRL's DPOTrainer.

use crate::common::*;
use engram::data::batch::BatchSet;
use engram::data::{jsonl, tokens};
use engram::train::{Event, TrainConfig, TrainMode, Trainer};
use serde_json::Value;

#[async_test]
async fn losses_are_those_of_trl() {
    let context = context().await;
    let golden = golden_json("tiny_dpo.json");
    let numbers = |key: &str| -> Vec<f64> { serde_json::from_value(golden[key].clone()).unwrap() };
    let records = golden["records"].as_array().expect("records");
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let engine = engine(&context, &open_folder("tiny").await).await;
    let losses = numbers("losses");
    let config = TrainConfig {
        train_mode: TrainMode::Dpo,
        beta: golden["beta"].as_f64().expect("a number") as f32,
        rank: 4,
        scale: 2.5,
        num_layers: 2,
        batch_size: records.len(),
        iters: losses.len(),
        learning_rate: golden["learning_rate"].as_f64().expect("a number") as f32,
        steps_per_report: 1,
        ..Default::default()
    };
    let records = jsonl::parse("pairs", lines.join("\n").as_bytes()).unwrap();
    let set = || {
        let examples = tokens::tokenize("pairs", &records, &engine, config.loss_on()).unwrap();
        BatchSet::new(examples, config.batch_config()).unwrap()
    };
    let gpu = engine.model().gpu().unwrap();
    let initial = hash_adapter(&gpu.llama.config, 1..3, 4, 2.5, 0.0);
    let mut trainer =
        Trainer::new(&gpu.context, &gpu.llama, &initial, set(), Some(set()), &config).unwrap();
    let (accuracies, margins) = (numbers("accuracies"), numbers("margins"));
    let mut i = 0;
    while let Some(event) = trainer.advance().await.unwrap() {
        match event {
            // The same pairs: before the first step, and before the last.
            Event::Validated { iteration, loss, .. } => {
                assert_near(&format!("validation {i}"), loss, losses[iteration - 1], 1e-4);
            }
            Event::Reported { loss, .. } => {
                assert_near(&format!("loss {i}"), loss, losses[i], 1e-4);
                let found = trainer.preference().unwrap();
                assert_eq!(found.correct as f64 / found.pairs as f64, accuracies[i], "{i}");
                let margin = (found.margin / found.pairs as f64) as f32;
                assert_near(&format!("margin {i}"), margin, margins[i], 1e-3);
                i += 1;
            }
            Event::Stepped { .. } => panic!("every step reports"),
        }
    }
    assert_eq!(i, losses.len());
}
