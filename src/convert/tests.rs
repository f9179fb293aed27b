//! Models there and back again.

// What is in memory is read without waiting, which a page may do too.
use pollster::block_on;
use serde_json::Value;

use super::*;
use crate::formats::testing::{GgufFile, TinyLlama, array_head};
use crate::formats::{
    Bytes, Checkpoint, DType, Gguf, GgufTokenizer, SafetensorsFolder, TokenizerFile, quantize,
};
use crate::model::{
    Adapter, AdapterTensors, Lora, ModelConfig, Module, NamedTensor, RopeScaling, Target,
};
use crate::testing::test;
use crate::text::Tokenizer;
use crate::{Error, Result};

fn of_gguf(bytes: Vec<u8>) -> Checkpoint {
    block_on(Checkpoint::from_gguf(Box::new(Bytes::new("model.gguf", bytes)))).unwrap()
}

fn of_folder(folder: SafetensorsFolder) -> Checkpoint {
    block_on(Checkpoint::from_safetensors(folder)).unwrap()
}

/// A tokenizer of 40 tokens: letters, two merges, two special ones.
fn tokenizer() -> GgufTokenizer {
    let mut tokens: Vec<String> = ('!'..='D').map(String::from).collect();
    tokens.extend(["12", "AB", "<s>", "</s>"].map(String::from));
    let mut token_type = vec![1; 38];
    token_type.extend([3, 3]);
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some("smollm".into()),
        tokens,
        token_type,
        merges: ["1 2", "A B"].map(String::from).to_vec(),
        ..GgufTokenizer::default()
    }
}

/// The tiny model's folder with a tokenizer that is one.
fn folder(tiny: TinyLlama) -> SafetensorsFolder {
    let tokenizer_json = Tokenizer::from_gguf(&tokenizer()).unwrap().to_json().unwrap();
    SafetensorsFolder { tokenizer_json, ..tiny.folder() }
}

/// The tiny model's GGUF with that tokenizer.
fn gguf(tiny: TinyLlama) -> GgufFile {
    let (mut file, tokenizer) = (tiny.gguf(), tokenizer());
    file.set_strings("tokenizer.ggml.tokens", &tokenizer.tokens);
    file.set_strings("tokenizer.ggml.merges", &tokenizer.merges);
    file
}

fn written(export: Result<Export<'_>>) -> Vec<u8> {
    let export = export.unwrap();
    let mut file = Vec::new();
    block_on(export.write(&mut |piece| {
        file.extend(piece);
        Ok(())
    }))
    .unwrap();
    assert_eq!(export.bytes().unwrap(), file.len() as u64);
    file
}

fn to_gguf(from: &Checkpoint, adapter: Option<&AdapterTensors>, dtype: Option<DType>) -> Vec<u8> {
    written(block_on(Export::gguf(from, adapter, dtype, "tiny")))
}

/// The folder that `from` becomes.
fn to_folder(from: &Checkpoint, dtype: Option<DType>) -> SafetensorsFolder {
    let weights = written(Export::safetensors(from, None, dtype));
    let files = folder_files(from, DType::F32).unwrap();
    let file = |name| files.iter().find(|(found, _)| *found == name).unwrap().1.clone();
    SafetensorsFolder {
        name: "again".into(),
        weights: vec![("w".into(), Box::new(Bytes::new("again/w", weights)))],
        index_json: None,
        config_json: file("config.json"),
        generation_config_json: Some(file("generation_config.json")),
        tokenizer_json: file("tokenizer.json"),
        tokenizer_config_json: Some(file("tokenizer_config.json")),
        chat_template_jinja: None,
    }
}

fn read(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let rows = checkpoint.tensor(name).unwrap().rows();
    let mut bytes = Vec::new();
    block_on(checkpoint.read_rows(name, 0..rows, &mut bytes)).unwrap();
    bytes
}

fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&read(checkpoint, name))
}

#[track_caller]
fn assert_same(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.config, b.config);
    assert_eq!(a.chat_template, b.chat_template);
    assert!(a.tensor_names().eq(b.tensor_names()));
    for name in a.tensor_names() {
        assert_eq!(a.tensor(name), b.tensor(name));
        assert_eq!(read(a, name), read(b, name), "{name}");
    }
}

#[test]
fn a_gguf_that_nothing_changes_is_the_same_file() {
    for tied in [false, true] {
        let tiny = TinyLlama { bias: !tied, tied };
        let mut file = gguf(tiny);
        file.set("ours.unknown", 9, array_head(9, 0));
        let plain = file.bytes();
        // The last tensor is filled up too.
        let mut again = to_gguf(&of_gguf(plain.clone()), None, None);
        again.truncate(plain.len());
        assert!(again == plain);
    }
}

#[test]
fn both_formats_become_one_another() {
    for bias in [false, true] {
        let tiny = TinyLlama { bias, tied: !bias };
        let original = of_folder(folder(tiny));
        let there = of_gguf(to_gguf(&original, None, None));
        let back = of_folder(to_folder(&there, None));
        assert_same(&original, &there);
        assert_same(&original, &back);
        assert_eq!(original.bos_token, Some("t1".into()));
        let TokenizerFile::Gguf(found) = &there.tokenizer else { panic!("a GGUF's") };
        let expected = tokenizer();
        assert_eq!((&found.tokens, &found.merges), (&expected.tokens, &expected.merges));
        assert_eq!((&found.token_type, &found.pre), (&expected.token_type, &expected.pre));
    }
}

#[test]
fn rope_scalings_survive_both_ways() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    for scaling in [RopeScaling::Linear { factor: 2.5 }, llama3] {
        let mut folder = folder(TinyLlama::default());
        let mut config = ModelConfig::from_json("", &folder.config_json).unwrap();
        config.rope_scaling = Some(scaling);
        folder.config_json = config.to_json();
        let original = of_folder(folder);
        let there = of_gguf(to_gguf(&original, None, None));
        assert_eq!(there.config, original.config);
        let back = of_folder(to_folder(&there, None));
        assert_same(&original, &back);
        assert_eq!(of_gguf(to_gguf(&there, None, None)).config, original.config);
    }
}

#[test]
fn matrices_get_the_type_and_vectors_stay_floats() {
    let tiny = TinyLlama { bias: true, tied: true };
    let original = of_folder(folder(tiny));
    for dtype in [DType::F16, DType::BF16, DType::Q8_0, DType::Q5_1, DType::Q4_0, DType::Q4_1] {
        for from in [original_gguf(tiny), of_folder(folder(tiny))] {
            let found = of_gguf(to_gguf(&from, None, Some(dtype)));
            for name in original.tensor_names() {
                let info = found.tensor(name).unwrap();
                let expected = match name {
                    _ if info.shape.len() == 1 => DType::F32,
                    "model.embed_tokens.weight" if dtype.block_size() > 1 => DType::Q8_0,
                    _ => dtype,
                };
                assert_eq!(info.dtype, expected, "{name}");
                let values = floats(&original, name);
                assert_eq!(read(&found, name), quantize(expected, &values).unwrap(), "{name}");
            }
        }
    }
    let typed = to_gguf(&original, None, Some(DType::Q4_1));
    let metadata = block_on(Gguf::parse(&Bytes::new("", typed))).unwrap().metadata;
    assert_eq!(metadata.size("general.file_type").unwrap(), Some(3));
}

fn original_gguf(tiny: TinyLlama) -> Checkpoint {
    of_gguf(gguf(tiny).bytes())
}

#[test]
fn updates_of_embedding_and_head_are_fused_where_they_stay_what_they_are() {
    let lora = |ins: usize, outs: usize, rank: usize| {
        let values = |count: usize| (0..count).map(|i| (i % 5) as f32 - 2.0).collect();
        Lora { a: values(ins * rank), b: values(rank * outs), rank, scale: 0.5, magnitude: None }
    };
    let tiny = |tied| of_folder(folder(TinyLlama { bias: false, tied }));
    let (untied, tied) = (tiny(false), tiny(true));
    let (vocab, hidden) = (untied.config.vocab_size, untied.config.hidden_size);
    let (embedding, head) = (lora(vocab, hidden, 2), lora(hidden, vocab, 3));
    let of =
        |head| Adapter::of_modules([(Module::Embedding, embedding.clone()), (Module::Head, head)]);

    let fused = of_gguf(to_gguf(&untied, Some(&of(head.clone())), None));
    let row_of_embedding = |o: usize, i: usize| -> f32 {
        0.5 * (0..2).map(|r| embedding.a[o * 2 + r] * embedding.b[r * hidden + i]).sum::<f32>()
    };
    let table = "model.embed_tokens.weight";
    let (was, is) = (floats(&untied, table), floats(&fused, table));
    for (at, (was, is)) in was.iter().zip(&is).enumerate() {
        let expected = was + row_of_embedding(at / hidden, at % hidden);
        assert!((is - expected).abs() < 1e-5, "{at}: {is} for {expected}");
    }
    let mut expected = floats(&untied, "lm_head.weight");
    head.fuse(0, &mut expected).unwrap();
    assert_eq!(floats(&fused, "lm_head.weight"), expected);

    // What is embedding and head at once stays so, if both have the same update.
    let fused = of_gguf(to_gguf(&tied, Some(&of(embedding.transposed())), None));
    assert!(fused.config.tie_word_embeddings);
    assert_eq!(floats(&fused, table), {
        let mut both = floats(&tied, table);
        embedding.transposed().fuse(0, &mut both).unwrap();
        both
    });
    let problem = block_on(Export::gguf(&tied, Some(&of(head)), None, "mine")).err().unwrap();
    assert!(problem.to_string().contains("fused they would be two"), "{problem}");
}

#[test]
fn an_adapter_is_fused_in_any_format_and_order_of_rows() {
    let tiny = TinyLlama { bias: true, tied: false };
    let (a, b) = (original_gguf(tiny), of_folder(folder(tiny)));
    let targets = [Target::Q, Target::K, Target::Down];
    let adapter = AdapterTensors::init(&a.config, 1..2, &targets, 3, 2.0, 7).unwrap();
    let adapter = Adapter::new(adapter.iter().map(|(layer, target, lora)| {
        let mut lora = lora.clone();
        lora.b.iter_mut().zip(0_u16..).for_each(|(b, i)| *b = f32::from(i % 7) - 3.0);
        ((layer, target), lora)
    }));
    let fused =
        [of_gguf(to_gguf(&a, Some(&adapter), None)), of_gguf(to_gguf(&b, Some(&adapter), None))];
    for name in a.tensor_names() {
        let mut expected = floats(&a, name);
        if let Some((layer, target)) = Target::of_parameter(name).filter(|_| name.ends_with("ht"))
            && let Some(lora) = adapter.get(layer, target)
        {
            lora.fuse(0, &mut expected).unwrap();
            assert_ne!(expected, floats(&a, name), "{name}");
        }
        for fused in &fused {
            assert_eq!(floats(fused, name), expected, "{name}");
        }
    }
    let small = Adapter::new([((2, Target::Q), adapter.get(1, Target::Q).unwrap().clone())]);
    let problem = block_on(Export::gguf(&a, Some(&small), None, "")).err().unwrap().to_string();
    assert!(problem.contains("the model has only 2 blocks"), "{problem}");
}

#[test]
fn a_k_quant_that_an_adapter_changes_becomes_q8_0() {
    let mut file = gguf(TinyLlama::default());
    file.set_u32("llama.feed_forward_length", 256);
    file.tensors.retain(|tensor| !tensor.name.contains("ffn_"));
    for layer in 0..2 {
        file.push(&format!("blk.{layer}.ffn_norm.weight"), &[64], &[1.0; 64]);
        for part in ["gate", "up"] {
            let values = vec![0.25; 256 * 64];
            file.push(&format!("blk.{layer}.ffn_{part}.weight"), &[256, 64], &values);
        }
        let name = format!("blk.{layer}.ffn_down.weight");
        file.push(&name, &[64, 256], &[]);
        // A super-block of Q4_K whose scales are 0: values of 0.
        let tensor = file.tensor(&name);
        (tensor.kind, tensor.data) = (DType::Q4_K.ggml(), vec![0; 64 * 144]);
    }
    let original = of_gguf(file.bytes());
    let adapter = AdapterTensors::init(&original.config, 1..2, &[Target::Down], 2, 1.0, 7).unwrap();
    let fused = of_gguf(to_gguf(&original, Some(&adapter), None));
    let dtype = |layer| {
        let name = format!("model.layers.{layer}.mlp.down_proj.weight");
        fused.tensor(&name).unwrap().dtype
    };
    assert_eq!([dtype(0), dtype(1)], [DType::Q4_K, DType::Q8_0]);
}

#[test]
fn weights_take_the_places_of_the_models() {
    let tiny = TinyLlama { bias: true, tied: false };
    let (a, b) = (original_gguf(tiny), of_folder(folder(tiny)));
    let q = "model.layers.0.self_attn.q_proj";
    let names = ["model.norm.weight", "lm_head.weight"].map(str::to_owned);
    let names = [&names[..], &[format!("{q}.weight"), format!("{q}.bias")]].concat();
    let weights = names.iter().map(|name| {
        let shape = a.tensor(name).unwrap().shape.clone();
        let values = floats(&a, name).iter().map(|value| 1.0 - value).collect();
        (name.clone(), NamedTensor { shape, values })
    });
    // An update of a weight that is replaced adds to the new one.
    let adapter = AdapterTensors::init(&a.config, 0..1, &[Target::Q], 2, 1.0, 7).unwrap();
    let mut lora = adapter.get(0, Target::Q).unwrap().clone();
    lora.b.fill(0.5);
    let adapter = Adapter::new([((0, Target::Q), lora.clone())]).with_weights(weights.collect());
    let folder = written(Export::safetensors(&b, Some(&adapter), None));
    let folder = SafetensorsFolder {
        weights: vec![("w".into(), Box::new(Bytes::new("w", folder)))],
        ..self::folder(tiny)
    };
    for fused in [of_gguf(to_gguf(&a, Some(&adapter), None)), of_folder(folder)] {
        for name in a.tensor_names() {
            let mut expected = floats(&a, name);
            if let Some(weight) = adapter.weights().get(name) {
                expected.clone_from(&weight.values);
            }
            if *name == format!("{q}.weight") {
                lora.fuse(0, &mut expected).unwrap();
            }
            assert_eq!(floats(&fused, name), expected, "{name}");
        }
    }
}

#[test]
fn what_can_not_be_written_is_named() {
    let original = original_gguf(TinyLlama::default());
    let problem = |export: Result<Export<'_>>| export.err().unwrap().to_string();
    let bias = "model.layers.0.self_attn.q_proj.bias";
    let weight = NamedTensor { shape: vec![64], values: vec![0.0; 64] };
    let stray = Adapter::new([]).with_weights([(bias.to_owned(), weight)].into());
    let expected = format!("the model has no weight `{bias}` to replace");
    assert_eq!(problem(Export::safetensors(&original, Some(&stray), None)), expected);
    let of = |dtype| problem(block_on(Export::gguf(&original, None, Some(dtype), "")));
    assert_eq!(of(DType::Q4_K), "Q4_K is read, but not written; take Q8_0");
    let folder = Export::safetensors(&original, None, Some(DType::Q8_0));
    assert_eq!(problem(folder), "safetensors has no Q8_0; take F16 or F32");

    // A weight beyond f16, and a caller who wants no more.
    let mut file = gguf(TinyLlama::default());
    file.tensor("blk.1.ffn_up.weight").data[..4].copy_from_slice(&1e9_f32.to_le_bytes());
    let large = of_gguf(file.bytes());
    let export = block_on(Export::gguf(&large, None, Some(DType::F16), "")).unwrap();
    let problem = block_on(export.write(&mut |_| Ok(()))).unwrap_err().to_string();
    let expected = "model.gguf: tensor `model.layers.1.mlp.up_proj.weight`: a weight is not finite \
                    or too large for F16";
    assert!(problem.starts_with(expected), "{problem}");
    let stopped = block_on(export.write(&mut |_| Err(Error::Cancelled)));
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

#[test]
fn a_config_tells_the_type() {
    let of = |json: &str, dtype| -> Value {
        serde_json::from_slice(&config_with_dtype("c", json.as_bytes(), dtype).unwrap()).unwrap()
    };
    assert_eq!(of(r#"{"a": 1}"#, DType::F16)["torch_dtype"], "float16");
    let new = of(r#"{"dtype": "float32"}"#, DType::BF16);
    assert_eq!(new, serde_json::json!({"dtype": "bfloat16"}));
    assert!(config_with_dtype("c", b"[]", DType::F32).is_err());
}
