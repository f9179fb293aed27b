//! Adapters that PEFT and mlx-lm wrote, on the model that they wrote them for.

use crate::common::*;
use engram::formats::Bytes;
use engram::formats::adapter::{CONFIG_FILE, Layout, read};
use engram::generate::{Decoder, Engine, Forward, GpuModel, LoadedAdapter};
use engram::kernels::kv::KvType;
use engram::model::{AdapterTensors, AnyAdapter, GpuAdapter, ModelConfig, Quantize, Target};

async fn adapter(folder: &str) -> AdapterTensors {
    read_for(folder, None).await
}

/// The adapter in a folder of the goldens, as it is on `model`.
pub(crate) async fn read_for(folder: &str, model: Option<&ModelConfig>) -> AdapterTensors {
    let file = |name: &str| golden_bytes(&format!("{folder}/{name}"));
    let config = file(CONFIG_FILE);
    let layout = Layout::detect(folder, config).unwrap();
    let weights = Bytes::new(folder, file(layout.weights_file()));
    let adapter = read(folder, config, Box::new(weights), &[], model).await.unwrap();
    adapter.lora(folder).unwrap().clone()
}

async fn tiny() -> Engine {
    engine(&context().await, &open_folder("tiny").await).await
}

#[track_caller]
fn assert_same_logits(actual: &[f32], expected: &[f32]) {
    assert_nmse("logits", actual, expected, 1e-10);
}

#[async_test]
async fn both_layouts_are_the_same_adapter() {
    let mlx = adapter("tiny_adapter_mlx").await;
    assert_eq!(mlx, adapter("tiny_adapter_peft").await);
    assert_eq!(mlx.iter().count(), 14);
    assert!(mlx.iter().all(|(layer, _, lora)| layer > 0 && lora.rank == 4 && lora.scale == 2.5));
}

#[async_test]
async fn adapted_logits_are_those_of_peft() {
    let engine = tiny().await;
    let golden = Golden::open("tiny_adapter_logits.safetensors");
    let (ids, expected) = (golden.u32("input_ids"), golden.f32("logits"));
    let tensors = adapter("tiny_adapter_peft").await;
    let loaded = engine.load_adapter("tiny_adapter_peft", &AnyAdapter::Lora(tensors)).unwrap();

    let all = engine.logits_all(&ids, Some(&loaded)).await.unwrap();
    assert_same_logits(&all, &expected);

    // The decoder, with its cache, says the same of the last token, by prompt and by steps.
    let mut decoder = Decoder::with_cache(engine.model(), Some(&loaded), KvType::F32).unwrap();
    let vocab = engine.config().vocab_size;
    let last = &expected[expected.len() - vocab..];
    decoder.prefill(&ids).unwrap();
    assert_same_logits(&decoder.logits().await.unwrap(), last);
    let (end, start) = ids.split_last().unwrap();
    decoder.prefill(start).unwrap();
    decoder.advance(*end).unwrap();
    assert_same_logits(&decoder.logits().await.unwrap(), last);
}

/// Whichever layers of a block are adapted, in any weight format.
/// On the GPU they are put into copies of the weights, whatever the base is stored in.
#[async_test]
async fn doras_logits_are_those_of_peft() {
    let context = context().await;
    for model in ["tiny", "tiny_odd"] {
        let golden = Golden::open(&format!("{model}_adapter_types.safetensors"));
        let any = AnyAdapter::Lora(adapter(&format!("{model}_adapter_dora")).await);
        let llama = load(&context, &open_folder(model).await, Some(Quantize::F32)).await;
        let base = on_gpu(&context, &llama);
        let ids = golden.u32("sequence");
        let loaded = base.load_adapter(model, &any).unwrap();
        let mut forward = Forward::new(&base, Some(&loaded), ids.len()).unwrap();
        forward.run(&ids).unwrap();
        let mut logits = Vec::new();
        for first in (0..ids.len()).step_by(Forward::MOST_ROWS) {
            let rows = Forward::MOST_ROWS.min(ids.len() - first);
            logits.extend(forward.logits(first, rows).await.unwrap());
        }
        assert_same_logits(&logits, &golden.f32("dora.logits"));
    }
}

#[async_test]
async fn a_blend_of_an_adapter_with_itself_is_the_adapter() {
    let engine = tiny().await;
    let golden = Golden::open("tiny_adapter_logits.safetensors");
    let tensors = adapter("tiny_adapter_peft").await;
    let parts = [("a", &tensors, 0.75), ("b", &tensors, 0.5), ("c", &tensors, -0.25)];
    let blend = AnyAdapter::Lora(AdapterTensors::blend(&parts).unwrap());
    let loaded = engine.load_adapter("blend", &blend).unwrap();
    let ids = golden.u32("input_ids");
    let logits = engine.logits_all(&ids, Some(&loaded)).await.unwrap();
    assert_same_logits(&logits, &golden.f32("logits"));
}

#[async_test]
async fn steps_with_any_layers_adapted_are_the_full_forward() {
    let context = context().await;
    let checkpoint = open_folder("tiny").await;
    for quantize in [Quantize::F32, Quantize::F16, Quantize::Q8_0, Quantize::Q4_0] {
        let model = on_gpu(&context, &load(&context, &checkpoint, Some(quantize)).await);
        let config = model.config().clone();
        for kept in
            [&[Target::Q, Target::V][..], &[Target::K, Target::O, Target::Up], &[Target::Down]]
        {
            let all = hash_adapter(&config, 1..3, 3, 2.0, 0.2);
            let some = all.iter().filter(|(_, target, _)| kept.contains(target));
            let some = some.map(|(layer, target, lora)| ((layer, target), lora.clone()));
            let adapter = AnyAdapter::Lora(AdapterTensors::new(some));
            let adapter = model.load_adapter("some", &adapter).unwrap();
            let ids: Vec<u32> = (0..9).map(|i| i * 37 % 160).collect();
            let mut forward = Forward::new(&model, Some(&adapter), ids.len()).unwrap();
            forward.run(&ids).unwrap();
            let full = forward.logits(0, ids.len()).await.unwrap();
            let mut decoder = Decoder::with_cache(&model, Some(&adapter), KvType::F32).unwrap();
            assert!(decoder.dispatches_per_token().unwrap() <= 3 * 6 + 4);
            decoder.prefill(&ids[..1]).unwrap();
            for (id, expected) in ids.iter().zip(full.chunks_exact(160)).skip(1) {
                decoder.advance(*id).unwrap();
                let found = decoder.logits().await.unwrap();
                assert_close(&format!("{quantize:?}, {kept:?}"), &found, expected, 1e-4);
            }
        }
    }
}

/// Training writes into the buffer that a decoder's recordings have bound.
#[async_test]
async fn a_decoder_sees_its_adapter_change() {
    let engine = tiny().await;
    let GpuModel { context, llama } = engine.model().gpu().unwrap();
    let of = |scale_of_b| {
        let tensors = hash_adapter(&llama.config, 0..3, 4, 2.0, scale_of_b);
        GpuAdapter::upload(context, &tensors).unwrap()
    };
    let (early, late) = (of(0.0), of(0.3));
    let after = async |decoder: &mut Decoder| {
        decoder.prefill(&[1, 2]).unwrap();
        decoder.advance(3).unwrap();
        decoder.logits().await.unwrap()
    };
    let decoder = |adapter: &GpuAdapter| {
        let adapter = LoadedAdapter::Gpu(adapter.clone());
        Decoder::new(engine.model(), Some(&adapter)).unwrap()
    };
    let expected = after(&mut decoder(&late)).await;
    let mut alive = decoder(&early);
    assert!(nmse(&after(&mut alive).await, &expected) > 1e-4);
    let trained: Vec<f32> = context.read(&late.parameters, 0, late.count).await.unwrap();
    context.write(&early.parameters, 0, bytemuck::cast_slice(&trained));
    alive.truncate(0);
    assert_eq!(after(&mut alive).await, expected);
}

#[async_test]
async fn logits_without_an_adapter_are_those_of_transformers() {
    let engine = tiny().await;
    let golden = Golden::open("tiny_forward.safetensors");
    let (ids, expected) = (golden.u32("input_ids"), golden.f32("logits"));
    let all = engine.logits_all(&ids, None).await.unwrap();
    assert_same_logits(&all, &expected);
    // Each position sees only what is before it.
    let one = engine.logits_all(&ids[..1], None).await.unwrap();
    assert_same_logits(&one, &expected[..one.len()]);
}

#[async_test]
async fn an_adapter_of_another_model_is_refused() {
    let engine = tiny().await;
    let mut config = engine.config().clone();
    config.hidden_size = 32;
    let problem = adapter("tiny_adapter_mlx").await.check("mine", &config).unwrap_err().to_string();
    let expected = "mine: `model.layers.1.self_attn.q_proj`: lora_a is [64, 4], but the model \
                    expects [32, 4]; the adapter is for another model";
    assert_eq!(problem, expected);
}

#[async_test]
async fn ids_that_have_no_logits_are_named() {
    let engine = tiny().await;
    for (ids, named) in [
        (&[][..], "has no tokens"),
        (&[1, 160][..], "token 160 is not in the vocabulary of 160"),
        (&[1; 257][..], "257 tokens do not fit the context of 256"),
    ] {
        let result = engine.logits_all(ids, None).await;
        let problem = result.unwrap_err().to_string();
        assert!(problem.contains(named), "{problem}");
    }
}
