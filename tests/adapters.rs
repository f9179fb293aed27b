//! Adapters that PEFT and mlx-lm wrote, on the model that they wrote them for.

use std::fs;
use std::path::{Path, PathBuf};

use engram::formats::adapter::{CONFIG_FILE, Layout, read};
use engram::formats::{Bytes, Checkpoint, Safetensors, SafetensorsFolder};
use engram::generate::Engine;
use engram::gpu::{Context, ContextOptions};
use engram::model::{AdapterTensors, GpuAdapter};
use pollster::block_on;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/goldens")
}

fn bytes(path: &str) -> Bytes {
    Bytes::new(path, fs::read(goldens().join(path)).unwrap())
}

/// A tensor of a golden file, whose values are four bytes each.
fn golden<T: bytemuck::Pod>(file: &str, name: &str) -> Vec<T> {
    let bytes = fs::read(goldens().join(file)).unwrap();
    let header = block_on(Safetensors::parse(&Bytes::new(file, bytes.clone()))).unwrap();
    let tensor = header.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    bytemuck::pod_collect_to_vec(&bytes[tensor.offset as usize..][..tensor.bytes as usize])
}

fn adapter(folder: &str) -> AdapterTensors {
    let config = fs::read(goldens().join(folder).join(CONFIG_FILE)).unwrap();
    let layout = Layout::detect(folder, &config).unwrap();
    let weights = bytes(&format!("{folder}/{}", layout.weights_file()));
    block_on(read(folder, &config, Box::new(weights))).unwrap()
}

fn tiny(context: &Context) -> Engine {
    let file = |name: &str| fs::read(goldens().join("tiny").join(name)).unwrap();
    let folder = SafetensorsFolder {
        name: "tiny".into(),
        weights: vec![("model.safetensors".into(), Box::new(bytes("tiny/model.safetensors")))],
        index_json: None,
        config_json: file("config.json"),
        generation_config_json: None,
        tokenizer_json: file("tokenizer.json"),
        tokenizer_config_json: Some(file("tokenizer_config.json")),
        chat_template_jinja: None,
    };
    let checkpoint = block_on(Checkpoint::from_safetensors(folder)).unwrap();
    block_on(Engine::load(context, &checkpoint, None, &mut |_, _| Ok(()))).unwrap()
}

fn open(limits: Option<wgpu::Limits>) -> Context {
    let options = ContextOptions { limits, ..Default::default() };
    block_on(Context::new(&options)).unwrap()
}

/// Relative L2.
#[track_caller]
fn assert_near(actual: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let wrong: f64 = actual.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let distance = (wrong / expected.iter().map(|&b| square(b)).sum::<f64>()).sqrt();
    assert!(distance <= tolerance, "relative distance {distance:e}, at most {tolerance:e}");
}

#[test]
fn both_layouts_are_the_same_adapter() {
    let mlx = adapter("tiny_adapter_mlx");
    assert_eq!(mlx, adapter("tiny_adapter_peft"));
    assert_eq!(mlx.iter().count(), 14);
    assert!(mlx.iter().all(|(layer, _, lora)| layer > 0 && lora.rank == 4 && lora.scale == 2.5));
}

#[test]
fn adapted_logits_are_those_of_peft() {
    let context = open(None);
    let engine = tiny(&context);
    let ids: Vec<u32> = golden("tiny_adapter_logits.safetensors", "input_ids");
    let expected: Vec<f32> = golden("tiny_adapter_logits.safetensors", "logits");
    let tensors = adapter("tiny_adapter_peft");
    tensors.check("tiny_adapter_peft", &engine.model().config).unwrap();
    let gpu = GpuAdapter::upload(&context, &tensors).unwrap();

    let all = block_on(engine.logits_all(&ids, Some(&gpu.adapter))).unwrap();
    assert_near(&all, &expected, 1e-5);

    // The decoder, with its cache, says the same of the last token, by prompt and by steps.
    let mut decoder = engine.decoder(Some(&gpu.adapter)).unwrap();
    let vocab = engine.model().config.vocab_size;
    let last = &expected[expected.len() - vocab..];
    decoder.prefill(&ids).unwrap();
    assert_near(&block_on(decoder.logits()).unwrap(), last, 1e-5);
    let (end, start) = ids.split_last().unwrap();
    decoder.prefill(start).unwrap();
    decoder.advance(*end).unwrap();
    assert_near(&block_on(decoder.logits()).unwrap(), last, 1e-5);
}

#[test]
fn logits_without_an_adapter_are_those_of_transformers() {
    let engine = tiny(&open(None));
    let ids: Vec<u32> = golden("tiny_forward.safetensors", "input_ids");
    let expected: Vec<f32> = golden("tiny_forward.safetensors", "logits");
    let all = block_on(engine.logits_all(&ids, None)).unwrap();
    assert_near(&all, &expected, 1e-5);
    // Each position sees only what is before it.
    let one = block_on(engine.logits_all(&ids[..1], None)).unwrap();
    assert_near(&one, &expected[..one.len()], 1e-5);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let engine = tiny(&open(None));
    let mut config = engine.model().config.clone();
    config.hidden_size = 32;
    let problem = adapter("tiny_adapter_mlx").check("mine", &config).unwrap_err().to_string();
    let expected = "mine: `model.layers.1.self_attn.q_proj`: lora_a is [64, 4], but the model \
                    expects [32, 4]; the adapter is for another model";
    assert_eq!(problem, expected);
}

#[test]
fn ids_that_have_no_logits_are_named() {
    let engine = tiny(&open(None));
    for (ids, named) in [
        (&[][..], "has no tokens"),
        (&[1, 160][..], "token 160 is not in the vocabulary of 160"),
        (&[1; 257][..], "257 tokens do not fit the context of 256"),
    ] {
        let result = block_on(engine.logits_all(ids, None));
        let problem = result.unwrap_err().to_string();
        assert!(problem.contains(named), "{problem}");
    }
}
