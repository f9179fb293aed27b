//! burn on the device that our kernels use.

use engram::burn::{Device, LoraConfig, LoraModule, fresh_on};
use engram::gpu::{Context, ContextOptions};
use engram::train::{BurnLearner, Trainer};

use crate::common::*;
use crate::training::{burn_trainer, config, numbers, tiny_data};
use crate::{burn_model, on_burn};

#[async_test]
async fn one_device_serves_both_engines() {
    let checkpoint = open_folder("tiny").await;
    let options = ContextOptions { whole_adapter: true, ..Default::default() };
    let context = Context::new(&options).await.unwrap();
    let device = Device::wgpu(&context).unwrap();
    assert!(device.name().starts_with(&context.adapter().name));
    let on_gpu =
        engram::generate::Engine::load_burn(&device, &checkpoint, &mut |_, _| Ok(())).await;
    let (on_gpu, ours) = (on_gpu.unwrap(), engine(&context, &checkpoint).await);
    let ids: Vec<u32> = (0..20).map(|i| (i * 37 + 5) % 160).collect();
    let expected = ours.logits_all(&ids, None).await.unwrap();
    let found = on_gpu.logits_all(&ids, None).await.unwrap();
    assert_nmse("logits on one device", &found, &expected, 1e-10);
    let mut decoder = on_gpu.decoder(None).unwrap();
    let mut other = ours.decoder(None).unwrap();
    decoder.prefill(&ids).unwrap();
    other.prefill(&ids).unwrap();
    assert_eq!(decoder.extend(6).await.unwrap(), other.extend(6).await.unwrap());

    // Three steps are those of burn on the CPU.
    let config = engram::train::TrainConfig { iters: 3, ..config() };
    let data = tiny_data(&on_gpu, &config);
    let places = config.linears(on_gpu.config()).unwrap();
    let kind = LoraConfig::from(&config);
    let model = burn_model(&on_gpu);
    let adapter = fresh_on::<LoraModule>(model, &places, &kind, config.seed).unwrap();
    let learner = BurnLearner::new(model, adapter, kind, data.room(), &config);
    let found = numbers(&mut Trainer::with(learner, data, &config).unwrap(), 3).await;
    let cpu = on_burn(&checkpoint).await;
    let expected = numbers(&mut burn_trainer(&cpu, &config), 3).await;
    assert_close("losses and norms", &found, &expected, 1e-3);
    context.check().unwrap();
}

#[async_test]
async fn a_device_opened_with_less_is_refused() {
    let problem = Device::wgpu(&context().await).unwrap_err().to_string();
    assert!(problem.contains("whole_adapter"), "{problem}");
}
