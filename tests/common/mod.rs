//! What the integration tests share: golden files, models, a device, and distances.
#![allow(dead_code, reason = "every test file is a crate of its own and uses a part of this")]

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use engram::data::tokens::Example;
use engram::formats::{Bytes, Checkpoint, SafetensorsFolder};
use engram::generate::{Engine, GpuModel, Model};
use engram::gpu::{Context, ContextOptions, Step};
use engram::kernels::Token;
use engram::model::{
    Adapter, AdapterTensors, GpuLlama, ModelConfig, Quantize, ReferenceLlama, Target, rope_table,
};
use engram::ops::{GpuOps, Lora, Reference};

/// The attribute of these tests, as `src/testing.rs` of the library explains.
#[cfg(not(target_arch = "wasm32"))]
pub use pollster::test as async_test;
#[cfg(target_arch = "wasm32")]
pub use wasm_bindgen_test::wasm_bindgen_test as async_test;

#[cfg(not(target_arch = "wasm32"))]
pub mod file;

wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);

macro_rules! goldens {
    ($($name:literal,)*) => {
        &[$(($name, include_bytes!(concat!("../../data/goldens/", $name)).as_slice()),)*]
    };
}

/// The golden files, in the program itself, because a page has no files.
const GOLDENS: &[(&str, &[u8])] = goldens![
    "real_greedy.json",
    "real_logits.safetensors",
    "real_lora_grads.safetensors",
    "schedules.json",
    "tiny/config.json",
    "tiny/generation_config.json",
    "tiny/model.safetensors",
    "tiny/tokenizer.json",
    "tiny/tokenizer_config.json",
    "tiny_adapter_bottleneck/adapter_config.json",
    "tiny_adapter_bottleneck/adapter_model.safetensors",
    "tiny_adapter_dora/adapter_config.json",
    "tiny_adapter_dora/adapter_model.safetensors",
    "tiny_adapter_embedding/adapter_config.json",
    "tiny_adapter_embedding/adapter_model.safetensors",
    "tiny_adapter_embedding.safetensors",
    "tiny_adapter_embedding_mlx/adapter_config.json",
    "tiny_adapter_embedding_mlx/adapters.safetensors",
    "tiny_adapter_logits.safetensors",
    "tiny_adapter_mlx/adapter_config.json",
    "tiny_adapter_mlx/adapters.safetensors",
    "tiny_adapter_peft/adapter_config.json",
    "tiny_adapter_peft/adapter_model.safetensors",
    "tiny_adapter_rslora/adapter_config.json",
    "tiny_adapter_rslora/adapter_model.safetensors",
    "tiny_adapter_types.safetensors",
    "tiny_dpo.json",
    "tiny_forward.safetensors",
    "tiny_full_grads.safetensors",
    "tiny_full_steps.safetensors",
    "tiny_gguf_forward.safetensors",
    "tiny_lora_grads_all_r3.safetensors",
    "tiny_lora_grads_last2_r4.safetensors",
    "tiny_lora_optim.json",
    "tiny_lora_optim.safetensors",
    "tiny_mlx/report.json",
    "tiny_mlx/run.safetensors",
    "tiny_mlx/train.jsonl",
    "tiny_mlx/valid.jsonl",
    "tiny_odd/config.json",
    "tiny_odd/model.safetensors",
    "tiny_odd_adapter_dora/adapter_config.json",
    "tiny_odd_adapter_dora/adapter_model.safetensors",
    "tiny_odd_adapter_embedding/adapter_config.json",
    "tiny_odd_adapter_embedding/adapter_model.safetensors",
    "tiny_odd_adapter_types.safetensors",
    "tiny_odd_forward.safetensors",
    "tiny_odd_full_grads.safetensors",
    "tiny_odd_lora_grads_last1_r5.safetensors",
    "tiny_optimizers.json",
    "tiny_q4_0.gguf",
    "tiny_q4_1.gguf",
    "tiny_q8_0.gguf",
    "tiny_ranks.json",
    "tiny_tokenizer.json",
    "tokenizer_ids.json",
];

/// A file below `data/goldens`.
#[track_caller]
pub fn golden_bytes(name: &str) -> &'static [u8] {
    optional_golden(name).unwrap_or_else(|| panic!("{name} is not in the list of golden files"))
}

fn optional_golden(name: &str) -> Option<&'static [u8]> {
    GOLDENS.iter().find(|(found, _)| *found == name).map(|(_, bytes)| *bytes)
}

/// A golden file of JSON.
pub fn golden_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(golden_bytes(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The numbers of a JSON list.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("not a list of ids: {e}"))
}

/// A golden file of tensors.
pub struct Golden {
    name: String,
    tensors: HashMap<String, (safetensors::Dtype, Vec<u8>)>,
    /// The strings of its header.
    pub metadata: HashMap<String, String>,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let bytes = golden_bytes(name);
        let file = safetensors::SafeTensors::deserialize(bytes);
        let file = file.unwrap_or_else(|e| panic!("{name}: {e}"));
        let header = safetensors::SafeTensors::read_metadata(bytes);
        let (_, header) = header.unwrap_or_else(|e| panic!("{name}: {e}"));
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let tensors = file
            .iter()
            .map(|(name, view)| (name.to_owned(), (view.dtype(), view.data().to_vec())))
            .collect();
        Self { name: name.to_owned(), tensors, metadata }
    }

    /// The names of its tensors that start with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.retain(|name| name.starts_with(prefix));
        names.sort_unstable();
        names
    }

    fn bytes(&self, name: &str, dtype: safetensors::Dtype) -> &[u8] {
        match self.tensors.get(name) {
            Some((found, bytes)) if *found == dtype => bytes,
            _ => panic!("{}: no tensor `{name}` of {dtype:?}", self.name),
        }
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.bytes(name, safetensors::Dtype::F32))
    }

    pub fn f64(&self, name: &str) -> Vec<f64> {
        bytemuck::pod_collect_to_vec(self.bytes(name, safetensors::Dtype::F64))
    }

    /// The ids and lengths, which are stored as I32.
    pub fn u32(&self, name: &str) -> Vec<u32> {
        bytemuck::pod_collect_to_vec(self.bytes(name, safetensors::Dtype::I32))
    }

    pub fn u8(&self, name: &str) -> Vec<u8> {
        self.bytes(name, safetensors::Dtype::U8).to_vec()
    }
}

/// A GGUF file among the goldens.
pub async fn open_gguf(name: &str) -> Checkpoint {
    let source = Bytes::new(name, golden_bytes(name));
    Checkpoint::from_gguf(Box::new(source)).await.unwrap()
}

/// A Hugging Face folder among the goldens; one without a tokenizer gets that of `tiny`.
pub async fn open_folder(name: &str) -> Checkpoint {
    let optional = |file: &str| optional_golden(&format!("{name}/{file}")).map(<[u8]>::to_vec);
    let weights = Bytes::new(name, golden_bytes(&format!("{name}/model.safetensors")));
    Checkpoint::from_safetensors(SafetensorsFolder {
        name: name.to_owned(),
        weights: vec![("model.safetensors".to_owned(), Box::new(weights))],
        index_json: None,
        config_json: golden_bytes(&format!("{name}/config.json")).to_vec(),
        generation_config_json: optional("generation_config.json"),
        tokenizer_json: optional("tokenizer.json")
            .unwrap_or_else(|| golden_bytes("tiny/tokenizer.json").to_vec()),
        tokenizer_config_json: optional("tokenizer_config.json"),
        chat_template_jinja: None,
    })
    .await
    .unwrap()
}

/// The best adapter; a machine without one fails the test.
pub async fn context() -> Context {
    Context::new(&ContextOptions::default()).await.unwrap()
}

/// A device with at most these limits.
pub async fn small_context(limits: wgpu::Limits) -> Context {
    let options = ContextOptions { limits: Some(limits), ..Default::default() };
    Context::new(&options).await.unwrap()
}

/// The weights on the GPU.
pub async fn load(
    context: &Context,
    checkpoint: &Checkpoint,
    quantize: Option<Quantize>,
) -> Rc<GpuLlama> {
    Rc::new(GpuLlama::to_gpu(context, checkpoint, quantize, &mut |_, _| Ok(())).await.unwrap())
}

/// The weights, tokenizer and template.
pub async fn engine(context: &Context, checkpoint: &Checkpoint) -> Engine {
    Engine::load(context, checkpoint, None, &mut |_, _| Ok(())).await.unwrap()
}

/// Weights on their device.
pub fn on_gpu(context: &Context, llama: &Rc<GpuLlama>) -> Model {
    Model::Gpu(GpuModel { context: context.clone(), llama: llama.clone() })
}

/// The tokens of one sequence, packed without a cache.
pub fn one_sequence(ids: &[u32]) -> Vec<Token> {
    let token = |(&id, position)| Token { id, position, first_key: 0, last_key: position };
    ids.iter().zip(0..).map(token).collect()
}

/// The logits (T, vocab) after every token, in one replay without a cache.
pub async fn gpu_logits(context: &Context, model: &Rc<GpuLlama>, ids: &[u32]) -> Vec<f32> {
    let step = context.uniform("step", size_of::<Step>() as u64).unwrap();
    let count = Step { tokens: ids.len() as u32, ..Default::default() };
    context.write(&step, 0, bytemuck::bytes_of(&count));
    let tokens = context.storage_from("tokens", &one_sequence(ids)).unwrap();
    let table = rope_table(&model.config, ids.len());
    let table = context.storage_from("rope table", &table).unwrap();
    let mut ops = GpuOps::new(context, &step, &tokens, &table, ids.len(), None);
    let hidden = model.hidden(&mut ops, None).unwrap();
    let logits = model.logits(&mut ops, &hidden, None).unwrap();
    ops.finish().submit(count.tokens, 1).unwrap();
    let values = ids.len() * model.config.vocab_size;
    context.read(logits.buffer(), 0, values).await.unwrap()
}

/// The weights for the CPU reference.
pub async fn reference(checkpoint: &Checkpoint) -> ReferenceLlama {
    ReferenceLlama::to_reference(checkpoint).await.unwrap()
}

/// The logits (T, vocab) after every token, by the CPU reference.
pub fn reference_logits(model: &ReferenceLlama, ids: &[u32]) -> Vec<f32> {
    let table = rope_table(&model.config, ids.len());
    let mut ops = Reference::new(&one_sequence(ids), &table);
    let hidden = model.hidden(&mut ops, None).unwrap();
    model.logits(&mut ops, &hidden, None).unwrap().values
}

/// The first of the largest values.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&l| l == best).unwrap() as u32
}

/// The normalised mean squared error: the squared distance over the squared length of `expected`.
pub fn nmse(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let square = |x: f64| x * x;
    let pairs = actual.iter().zip(expected);
    let error: f64 = pairs.map(|(&a, &e)| square(f64::from(a) - f64::from(e))).sum();
    error / expected.iter().map(|&e| square(f64::from(e))).sum::<f64>()
}

/// Fails unless the NMSE is at most `most`; NaN fails.
#[track_caller]
pub fn assert_nmse(what: &str, actual: &[f32], expected: &[f32], most: f64) {
    let found = nmse(actual, expected);
    assert!(found <= most, "{what}: NMSE {found:e}, at most {most:e} is right");
}

/// Fails unless every value is within `tolerance` of what is expected; NaN fails.
#[track_caller]
pub fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    // Counted from what is near, so that NaN is off.
    let near = |i: &usize| (actual[*i] - expected[*i]).abs() <= tolerance;
    let off: Vec<usize> = (0..actual.len()).filter(|i| !near(i)).collect();
    let Some(&first) = off.first() else { return };
    let (count, all, got, want) = (off.len(), actual.len(), actual[first], expected[first]);
    panic!("{what}: {count} of {all} are off, the first at {first}: {got} instead of {want}");
}

/// The hash that made test values: `data/goldens/README.md` has it.
fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// The hash's bits for the elements of the tensor `name`.
pub fn hash_bits(name: &str) -> impl Iterator<Item = u64> + use<> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |seed, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (0u64..).map(move |i| splitmix64(seed.wrapping_add(i)))
}

/// The hash's values for a tensor, within ±`bound`.
pub fn hash_values(name: &str, count: usize, bound: f64) -> Vec<f32> {
    let unit = |bits: u64| (bits >> 40) as f64 / f64::from(1 << 24) * 2.0 - 1.0;
    hash_bits(name).take(count).map(|bits| (unit(bits) * bound) as f32).collect()
}

/// MLX's name of a parameter.
pub fn mlx_name(layer: usize, target: Target, half: &str) -> String {
    format!("model.layers.{layer}.{}.{half}", target.path())
}

/// All seven updates of `layers`: `lora_a` with bound 1/√in and `lora_b` with `bound_b`.
pub fn hash_adapter(
    config: &ModelConfig,
    layers: Range<usize>,
    rank: usize,
    scale: f32,
    bound_b: f64,
) -> AdapterTensors {
    let updates = layers.flat_map(|layer| Target::ALL.map(|target| (layer, target)));
    Adapter::new(updates.map(|(layer, target)| {
        let (ins, outs) = target.shape(config);
        let bound_a = 1.0 / (ins as f64).sqrt();
        let a = hash_values(&mlx_name(layer, target, "lora_a"), ins * rank, bound_a);
        let b = hash_values(&mlx_name(layer, target, "lora_b"), rank * outs, bound_b);
        ((layer, target), Lora { a, b, rank, scale, magnitude: None })
    }))
}

/// All seven updates of `layers` from PEFT's tensors `{prefix}{PEFT key}` of a golden file.
pub fn peft_adapter(
    golden: &Golden,
    prefix: &str,
    layers: Range<usize>,
    rank: usize,
    scale: f32,
) -> AdapterTensors {
    let updates = layers.flat_map(|layer| Target::ALL.map(|target| (layer, target)));
    Adapter::new(updates.map(|(layer, target)| {
        let stem = format!("{prefix}base_model.model.model.layers.{layer}.{}", target.path());
        // PEFT has [rank, in] and [out, rank].
        let a = golden.f32(&format!("{stem}.lora_A.weight"));
        let b = golden.f32(&format!("{stem}.lora_B.weight"));
        let (ins, outs) = (a.len() / rank, b.len() / rank);
        let a = transposed(&a, rank, ins);
        ((layer, target), Lora { a, b: transposed(&b, outs, rank), rank, scale, magnitude: None })
    }))
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// The examples of a golden batch: `input_ids`, `lengths` and `target_mask`.
pub fn golden_examples(golden: &Golden) -> Vec<Example> {
    let lengths = golden.u32("lengths");
    let (ids, mask) = (golden.u32("input_ids"), golden.u8("target_mask"));
    let rows = ids.chunks_exact(ids.len() / lengths.len());
    let masks = mask.chunks_exact(mask.len() / lengths.len());
    let example = |((ids, mask), length): ((&[u32], &[u8]), &u32)| {
        // The mask's first place is of the second token.
        let prompt_len = 1 + mask.iter().position(|&counts| counts == 1).expect("a target");
        Example::new(ids[..*length as usize].to_vec(), prompt_len)
    };
    rows.zip(masks).zip(&lengths).map(example).collect()
}

/// The distance over the length of `expected`.
pub fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    nmse(actual, expected).sqrt()
}

/// Fails unless a number is within `tolerance` of what is expected; NaN fails.
#[track_caller]
pub fn assert_near(what: &str, found: f32, expected: f64, tolerance: f64) {
    let off = (f64::from(found) - expected).abs();
    assert!(off <= tolerance, "{what}: {found}, {expected} is right");
}

/// Fails unless every `a` and `b` is within a relative distance of `most` of its twin.
#[track_caller]
pub fn assert_adapters(what: &str, actual: &AdapterTensors, expected: &AdapterTensors, most: f64) {
    assert_eq!(actual.iter().count(), expected.iter().count(), "{what}");
    for (layer, target, expected) in expected.iter() {
        let actual = actual.get(layer, target).expect("the same updates");
        for (half, actual, expected) in
            [("lora_a", &actual.a, &expected.a), ("lora_b", &actual.b, &expected.b)]
        {
            let error = relative_error(actual, expected);
            let name = mlx_name(layer, target, half);
            assert!(error <= most, "{what}: {name} is off by {error:e}, at most {most:e} is right");
        }
    }
}
