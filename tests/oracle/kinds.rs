//! The adapter types, against PEFT and, for the bottleneck, PyTorch.

use engram::burn::{
    AdapterKind, Bottleneck, BurnAdapter, DoraModule, LoraConfig, LoraModule, fresh,
    with_parameters,
};
use engram::data::batch::{BatchSet, Semantics};
use engram::formats::Bytes;
use engram::formats::adapter::{CONFIG_FILE, Layout, PeftOptions, read, write_named, write_peft};
use engram::generate::Engine;
use engram::model::{AnyAdapter, ReferenceLlama, Target};
use engram::ops::Reference;
use engram::train::{BurnLearner, Event, TrainConfig, TrainData, Trainer};

use crate::common::*;
use crate::{burn_model, on_burn};

/// An adapter that PEFT, or for the bottleneck our script, wrote.
async fn adapter(folder: &str) -> AnyAdapter {
    let file = |name: &str| golden_bytes(&format!("{folder}/{name}"));
    let config = file(CONFIG_FILE);
    let layout = Layout::detect(folder, config).unwrap();
    let weights = Bytes::new(folder, file(layout.weights_file()));
    read(folder, config, Box::new(weights), &BurnAdapter::KINDS, None).await.unwrap()
}

/// Logits, loss, gradients and ten steps of a golden adapter.
async fn check<A: AdapterKind>(model: &str, kind: &str, config: A::Config) {
    let engine = on_burn(&open_folder(model).await).await;
    let golden = Golden::open(&format!("{model}_adapter_types.safetensors"));
    let any = adapter(&format!("{model}_adapter_{kind}")).await;
    let loaded = engine.load_adapter(kind, &any).unwrap();
    let logits = engine.logits_all(&golden.u32("sequence"), Some(&loaded)).await.unwrap();
    assert_nmse("logits", &logits, &golden.f32(&format!("{kind}.logits")), 1e-10);

    let examples = golden_examples(&golden);
    let train = TrainConfig {
        batch_size: examples.len(),
        iters: 10,
        learning_rate: 1e-3,
        steps_per_report: 1,
        val_batches: 0,
        semantics: Semantics::Engram,
        ..Default::default()
    };
    let set = BatchSet::new(examples.clone(), train.batch_config()).unwrap();
    let batch = set.pack(&(0..examples.len() as u32).collect::<Vec<_>>());
    let data = TrainData::new(set, None, engine.config()).unwrap();
    let modules = A::load(burn_model(&engine), kind, &any).unwrap();
    let learner =
        BurnLearner::new(burn_model(&engine), modules, config.clone(), data.room(), &train);
    let (loss, gradients) = learner.loss_and_gradients(&batch).unwrap();
    let loss = f64::from(engram::burn::read(loss).await.unwrap()[0]);
    let expected = golden.f64(&format!("{kind}.loss"))[0];
    assert!((loss - expected).abs() <= 1e-5, "{kind}: loss {loss}, {expected} is right");

    // The gradients in the place of the parameters are written as the adapter would be.
    let gradients = with_parameters(learner.updates(), &gradients);
    let found = files(&A::save(&gradients, &config).await.unwrap(), &engine);
    let file = safetensors::SafeTensors::deserialize(&found).unwrap();
    let prefix = format!("{kind}.grad.");
    let names = golden.names(&prefix);
    assert_eq!(file.names().len(), names.len(), "{kind}");
    for name in names {
        let tensor = file.tensor(name.strip_prefix(&prefix).unwrap()).unwrap();
        let found: Vec<f32> = bytemuck::pod_collect_to_vec(tensor.data());
        let error = relative_error(&found, &golden.f32(name));
        assert!(error <= 1e-5, "{name} is off by {error:e}");
    }

    let mut trainer = Trainer::with(learner, data, &train).unwrap();
    let mut losses = Vec::new();
    while let Some(event) = trainer.advance().await.unwrap() {
        if let Event::Reported { loss, .. } = event {
            losses.push(loss);
        }
    }
    let expected: Vec<f32> =
        golden.f64(&format!("{kind}.losses")).into_iter().map(|loss| loss as f32).collect();
    assert_close(&format!("{kind}: losses"), &losses, &expected, 1e-4);
}

/// The parameters' file in PEFT's layout.
fn files(adapter: &AnyAdapter, engine: &Engine) -> Vec<u8> {
    match adapter {
        AnyAdapter::Lora(tensors) => {
            write_peft(tensors, engine.config(), &PeftOptions::default()).unwrap().weights
        }
        AnyAdapter::Named(named) => write_named(named, "tiny").unwrap().weights,
    }
}

#[async_test]
async fn dora_is_pefts() {
    let config = LoraConfig { rank: 3, scale: 2.5 };
    check::<DoraModule>("tiny", "dora", config.clone()).await;
    check::<DoraModule>("tiny_odd", "dora", config).await;
}

#[async_test]
async fn rslora_is_pefts() {
    check::<LoraModule>("tiny", "rslora", LoraConfig { rank: 4, scale: 3.0 }).await;
}

#[async_test]
async fn the_bottleneck_is_pytorchs() {
    let config = engram::burn::BottleneckConfig { bottleneck_size: 5 };
    check::<Bottleneck>("tiny", "bottleneck", config).await;
}

/// The naive reference, which sums in f64, says the same of a DoRA.
#[async_test]
async fn dora_is_that_of_the_reference() {
    let checkpoint = open_folder("tiny_odd").await;
    let golden = Golden::open("tiny_odd_adapter_types.safetensors");
    let AnyAdapter::Lora(tensors) = adapter("tiny_odd_adapter_dora").await else {
        panic!("not a LoRA")
    };
    let model: ReferenceLlama = reference(&checkpoint).await;
    let ids = golden.u32("sequence");
    let table = engram::model::rope_table(&model.config, ids.len());
    let mut ops = Reference::new(&one_sequence(&ids), &table);
    let hidden = model.hidden(&mut ops, Some(&tensors)).unwrap();
    let logits = model.logits(&mut ops, &hidden, Some(&tensors)).unwrap().values;
    assert_nmse("logits", &logits, &golden.f32("dora.logits"), 1e-10);
}

#[async_test]
async fn a_new_adapter_of_any_type_changes_nothing() {
    async fn check<A: AdapterKind>(engine: &Engine, config: A::Config) {
        let model = burn_model(engine);
        let ids = [5, 3, 60, 2, 9];
        let plain = engine.logits_all(&ids, None).await.unwrap();
        let adapter = fresh::<A>(model, 0..3, &Target::ALL, &config, 7).unwrap();
        let adapter = A::save(&adapter, &config).await.unwrap();
        let loaded = engine.load_adapter("new", &adapter).unwrap();
        let adapted = engine.logits_all(&ids, Some(&loaded)).await.unwrap();
        assert_nmse(A::KIND, &adapted, &plain, 1e-12);
    }
    let engine = on_burn(&open_folder("tiny").await).await;
    check::<LoraModule>(&engine, LoraConfig { rank: 3, scale: 2.0 }).await;
    check::<DoraModule>(&engine, LoraConfig { rank: 3, scale: 2.0 }).await;
    let config = engram::burn::BottleneckConfig { bottleneck_size: 4 };
    check::<Bottleneck>(&engine, config).await;
}

#[async_test]
async fn what_is_no_adapter_of_the_model_is_named() {
    let engine = on_burn(&open_folder("tiny").await).await;
    let problem = |adapter: AnyAdapter| {
        engine.load_adapter("mine", &adapter).map(|_| ()).unwrap_err().to_string()
    };
    let AnyAdapter::Named(good) = adapter("tiny_adapter_bottleneck").await else {
        panic!("a bottleneck is named")
    };
    let name = good.tensors.keys().next().unwrap().clone();

    let mut lacking = good.clone();
    lacking.tensors.remove(&name);
    assert!(problem(AnyAdapter::Named(lacking)).contains(&format!("`{name}` is missing")));

    let mut reshaped = good.clone();
    reshaped.tensors.get_mut(&name).unwrap().shape = vec![1, 1];
    assert!(problem(AnyAdapter::Named(reshaped)).contains("is [1, 1], but the model"));

    let mut more = good.clone();
    let tensor = more.tensors[&name].clone();
    more.tensors.insert("model.layers.2.mlp.down_proj.gain".into(), tensor.clone());
    assert!(problem(AnyAdapter::Named(more)).contains("does not have"));

    let mut elsewhere = good.clone();
    elsewhere.tensors.insert("model.layers.9.mlp.down_proj.up.bias".into(), tensor);
    assert!(problem(AnyAdapter::Named(elsewhere)).contains("no linear layer of the model"));

    let mut unconfigured = good.clone();
    unconfigured.config.remove("bottleneck_size");
    assert!(problem(AnyAdapter::Named(unconfigured)).contains("bottleneck_size"));

    let mut novel = good;
    novel.kind = "NOVEL".into();
    assert!(problem(AnyAdapter::Named(novel)).contains("NOVEL is no adapter type"));
}
