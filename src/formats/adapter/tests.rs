//! Both layouts, read and written.

use ::safetensors::tensor::{Dtype, TensorView, serialize};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::formats::Bytes;
use crate::model::{Adapter, Lora, ModelConfig, Module, NamedTensor, Target};
use crate::testing::test;

pub(super) fn model() -> ModelConfig {
    let json = br#"{"model_type": "llama", "vocab_size": 40, "hidden_size": 6,
        "intermediate_size": 10, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-5}"#;
    ModelConfig::from_json("config.json", json).unwrap()
}

/// Values that differ everywhere.
pub(super) fn lora(target: Target, rank: usize, scale: f32) -> Lora<Vec<f32>> {
    let (ins, outs) = target.shape(&model());
    let values = |count: usize, from: f32| (0..count).map(|i| from + i as f32 / 7.0).collect();
    Lora { a: values(ins * rank, 0.1), b: values(rank * outs, -3.0), rank, scale, magnitude: None }
}

/// An adapter of the embedding, the head and a layer, with ranks of their own if `mixed`.
pub(super) fn of_tables(mixed: bool) -> AdapterTensors {
    let (q, (vocab, hidden)) = (lora(Target::Q, 3, 0.5), (40, 6));
    let values = |count: usize| (0..count).map(|i| 0.5 + i as f32 / 3.0).collect();
    let of = |ins: usize, outs: usize, rank: usize| Lora {
        a: values(ins * rank),
        b: values(rank * outs),
        rank,
        ..q.clone()
    };
    let (one, other) = if mixed { (2, 4) } else { (3, 3) };
    Adapter::of_modules([
        (Module::Embedding, of(vocab, hidden, one)),
        ((1, Target::Q).into(), q.clone()),
        (Module::Head, of(hidden, vocab, other)),
    ])
}

/// The model with its embedding as the head.
pub(super) fn tied_model() -> ModelConfig {
    ModelConfig { tie_word_embeddings: true, ..model() }
}

pub(super) fn adapter(keys: &[(usize, Target)]) -> AdapterTensors {
    Adapter::new(keys.iter().map(|&(layer, target)| ((layer, target), lora(target, 3, 0.3))))
}

/// An adapter of DoRA's, with magnitudes that differ everywhere.
pub(super) fn dora(keys: &[(usize, Target)]) -> AdapterTensors {
    Adapter::new(keys.iter().map(|&key| (key, lora_with_magnitude(key.1))))
}

fn lora_with_magnitude(target: Target) -> Lora<Vec<f32>> {
    let outs = target.shape(&model()).1;
    Lora { magnitude: Some((0..outs).map(|i| 0.5 + i as f32).collect()), ..lora(target, 3, 0.3) }
}

fn mlx_files(adapter: &AdapterTensors) -> AdapterFiles {
    write_mlx(adapter, &model(), &Map::new()).unwrap()
}

fn peft_files(adapter: &AdapterTensors) -> AdapterFiles {
    write_peft(adapter, &model(), &PeftOptions::default()).unwrap()
}

/// PEFT's files with the scales in rsLoRA's way.
fn rslora_files(adapter: &AdapterTensors) -> AdapterFiles {
    let options = PeftOptions { use_rslora: true, ..PeftOptions::default() };
    write_peft(adapter, &model(), &options).unwrap()
}

const KINDS: [&str; 2] = ["BOTTLENECK", "MIXED_2"];

pub(super) fn read_any(files: &AdapterFiles) -> Result<AnyAdapter> {
    let weights = Bytes::new(files.layout.weights_file(), files.weights.clone());
    let (config, model) = (&files.config_json, model());
    pollster::block_on(read(CONFIG_FILE, config, Box::new(weights), &KINDS, Some(&model)))
}

fn read_files(files: &AdapterFiles) -> Result<AdapterTensors> {
    Ok(read_any(files)?.lora("the adapter")?.clone())
}

pub(super) fn json_of(files: &AdapterFiles) -> Value {
    serde_json::from_slice(&files.config_json).unwrap()
}

pub(super) fn tensor(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let view = TensorView::new(dtype, shape.to_vec(), data).unwrap();
    serialize([(name, view)], None).unwrap()
}

/// What reading says of `config` beside the tensors of a written adapter, and of `weights`.
pub(super) fn problem(config: &Value, weights: Option<Vec<u8>>) -> String {
    problem_of(&adapter(&[(1, Target::Q)]), config, weights)
}

/// The same with another adapter's tensors.
fn problem_of(adapter: &AdapterTensors, config: &Value, weights: Option<Vec<u8>>) -> String {
    let is_peft = config.get("peft_type").is_some();
    let mut files = if is_peft { peft_files(adapter) } else { mlx_files(adapter) };
    files.config_json = config.to_string().into_bytes();
    if let Some(weights) = weights {
        files.weights = weights;
    }
    let problem = read_any(&files).unwrap_err().to_string();
    assert!(!problem.contains('\n'), "{problem}");
    problem
}

#[test]
fn both_layouts_come_back_as_they_were() {
    let every = Target::ALL.map(|target| [(1, target), (2, target)]).concat();
    for keys in [&every[..], &[(0, Target::Q), (2, Target::Down)], &[(2, Target::V)]] {
        for adapter in [adapter(keys), dora(keys)] {
            adapter.check("adapter", &model()).unwrap();
            for files in [mlx_files(&adapter), peft_files(&adapter), rslora_files(&adapter)] {
                assert_eq!(Layout::detect("", &files.config_json).unwrap(), files.layout);
                assert_eq!(read_files(&files).unwrap(), adapter);
            }
        }
    }
}

/// A norm's weight and the head's, whose values differ everywhere.
fn weights() -> std::collections::BTreeMap<String, NamedTensor> {
    let tensor = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| 0.5 + i as f32 / 7.0).collect();
        NamedTensor { shape: shape.to_vec(), values }
    };
    [
        ("lm_head.weight".to_owned(), tensor(&[40, 6])),
        ("model.layers.1.input_layernorm.weight".to_owned(), tensor(&[6])),
    ]
    .into()
}

#[test]
fn weights_of_the_models_come_along_in_both_layouts() {
    let both = adapter(&[(1, Target::Q)]).with_weights(weights());
    both.check("adapter", &model()).unwrap();
    for files in [mlx_files(&both), peft_files(&both)] {
        assert_eq!(read_files(&files).unwrap(), both);
    }
    let saved = json!(["lm_head", "model.layers.1.input_layernorm"]);
    assert_eq!(json_of(&peft_files(&both))["modules_to_save"], saved);

    // Full fine-tuning, which has nothing else.
    let full = Adapter::new([]).with_weights(weights());
    let files = mlx_files(&full);
    let expected = json!({"fine_tune_type": "full", "num_layers": 2, "lora_parameters": null});
    assert_eq!(json_of(&files), expected);
    let read = read_any(&files).unwrap();
    assert_eq!((read.kind(), read.count()), ("full", 246));
    assert_eq!(read, AnyAdapter::Lora(full.clone()));
    let error = write_peft(&full, &model(), &PeftOptions::default()).unwrap_err().to_string();
    assert!(error.contains("write this one as MLX's"), "{error}");
    // An update has a rank, of which `full` says nothing.
    let update = tensor("model.layers.1.mlp.up_proj.lora_a", Dtype::F32, &[1, 1], &[0; 4]);
    let problem = problem(&json!({"fine_tune_type": "full"}), Some(update));
    assert!(problem.contains("up_proj.lora_b` is missing"), "{problem}");
}

#[test]
fn a_weight_of_another_model_is_named() {
    let with = |name: &str, shape: &[usize], values: &[f32]| {
        let tensor = NamedTensor { shape: shape.to_vec(), values: values.to_vec() };
        let adapter = AdapterTensors::new([]).with_weights([(name.to_owned(), tensor)].into());
        adapter.check("mine", &model()).unwrap_err().to_string()
    };
    for (problem, expected) in [
        (with("model.norm.weight", &[3], &[0.0; 3]), "it is [3], but the model expects [6]"),
        (with("model.layers.3.mlp.up_proj.weight", &[1], &[0.0]), "the model has no such weight"),
        (with("model.norm.weight", &[6], &[f32::NAN; 6]), "holds NaN"),
        (with("model.norm.weight", &[6], &[0.0; 5]), "has 5 values and shape [6]"),
    ] {
        assert!(problem.starts_with("mine: `model.") && problem.contains(expected), "{problem}");
    }
}

#[test]
fn mlx_config_is_what_its_loader_wants() {
    let arguments = json!({
        "model": "m", "num_layers": -1, "iters": 9,
        "lora_parameters": {"rank": 99, "dropout": 0.1, "keys": ["x"]},
    });
    let Value::Object(arguments) = arguments else { unreachable!() };
    let keys = [(1, Target::Down), (1, Target::Q), (2, Target::Q)];
    let half = Adapter::new(keys.map(|key| (key, lora(key.1, 3, 0.5))));
    let files = write_mlx(&half, &model(), &arguments).unwrap();
    let expected = json!({
        "model": "m", "iters": 9, "fine_tune_type": "lora", "num_layers": 2,
        "lora_parameters": {
            "dropout": 0.1, "rank": 3, "scale": 0.5,
            "keys": ["self_attn.q_proj", "mlp.down_proj"],
        },
    });
    assert_eq!(json_of(&files), expected);
    let all = adapter(&Target::ALL.map(|target| (2, target)));
    assert!(json_of(&mlx_files(&all))["lora_parameters"].get("keys").is_none());
    assert_eq!(json_of(&mlx_files(&dora(&[(0, Target::Q)])))["fine_tune_type"], "dora");
}

#[test]
fn peft_config_covers_what_there_is() {
    let of = |keys: &[(usize, Target)]| {
        let options = PeftOptions { base_model: "org/model", dropout: 0.5, use_rslora: false };
        let json = json_of(&write_peft(&adapter(keys), &model(), &options).unwrap());
        assert_eq!(json["base_model_name_or_path"], "org/model");
        assert_eq!(json["lora_dropout"], 0.5);
        (json["target_modules"].clone(), json["layers_to_transform"].clone())
    };
    let (q, v) = (Target::Q, Target::V);
    assert_eq!(of(&[(0, q), (1, q), (2, q)]), (json!(["q_proj"]), Value::Null));
    assert_eq!(of(&[(1, q), (2, q), (1, v), (2, v)]), (json!(["q_proj", "v_proj"]), json!([1, 2])));
    let paths = json!(["model.layers.1.self_attn.q_proj", "model.layers.2.self_attn.v_proj"]);
    assert_eq!(of(&[(1, q), (2, v)]), (paths, Value::Null));
}

#[test]
fn ranks_and_scales_that_differ_are_patterns_in_peft_and_nothing_in_mlx() {
    let mixed = Adapter::new([
        ((1, Target::Q), lora(Target::Q, 3, 2.0)),
        ((2, Target::Q), lora(Target::Q, 2, 2.0)),
        ((2, Target::Up), lora(Target::Up, 3, 0.1)),
    ]);
    let files = peft_files(&mixed);
    assert_eq!(json_of(&files)["lora_alpha"], json!(6));
    let ranks = json!({"model.layers.2.self_attn.q_proj": 2});
    assert_eq!(json_of(&files)["rank_pattern"], ranks);
    assert_eq!(read_files(&files).unwrap(), mixed);
    assert_eq!(read_files(&rslora_files(&mixed)).unwrap(), mixed);
    let problem = write_mlx(&mixed, &model(), &Map::new()).unwrap_err().to_string();
    assert!(problem.contains("one rank and one scale; write this one as PEFT's"), "{problem}");
}

fn read_on(files: &AdapterFiles, model: &ModelConfig) -> Result<AdapterTensors> {
    let weights = Box::new(Bytes::new(files.layout.weights_file(), files.weights.clone()));
    let any = read(CONFIG_FILE, &files.config_json, weights, &KINDS, Some(model));
    Ok(pollster::block_on(any)?.lora("mine")?.clone())
}

#[test]
fn updates_of_the_embedding_and_the_head_come_back_in_both_layouts() {
    let (plain, mixed) = (of_tables(false), of_tables(true));
    mixed.check("mixed", &model()).unwrap();
    assert_eq!(read_files(&mlx_files(&plain)).unwrap(), plain);
    for adapter in [plain, mixed] {
        for files in [peft_files(&adapter), rslora_files(&adapter)] {
            assert_eq!(read_files(&files).unwrap(), adapter);
        }
    }
    let keys = json!(["self_attn.q_proj", "model.embed_tokens", "lm_head"]);
    assert_eq!(json_of(&mlx_files(&of_tables(false)))["lora_parameters"]["keys"], keys);
    let config = json_of(&peft_files(&of_tables(true)));
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(3), &json!(1.5)));
    assert_eq!(config["rank_pattern"], json!({"model.embed_tokens": 2, "lm_head": 4}));
    // With `layers_to_transform` PEFT would not find them.
    let named = json!(["model.embed_tokens", "model.layers.1.self_attn.q_proj", "lm_head"]);
    assert_eq!((&config["target_modules"], &config["layers_to_transform"]), (&named, &Value::Null));
}

#[test]
fn a_tied_embedding_is_the_heads_in_mlx_and_alone_in_peft() {
    let model = tied_model();
    let embedding = of_tables(false).of(Module::Embedding).unwrap().clone();
    let alone = Adapter::of_modules([(Module::Embedding, embedding.clone())]);
    let both = Adapter::of_modules([
        (Module::Embedding, embedding.clone()),
        (Module::Head, embedding.transposed()),
    ]);
    assert!(both.keeps_tied() && !alone.keeps_tied() && !of_tables(false).keeps_tied());
    both.check("both", &model).unwrap();

    let files = write_mlx(&both, &model, &Map::new()).unwrap();
    assert_eq!(read_on(&files, &model).unwrap(), both);
    let keys = json!(["model.embed_tokens"]);
    assert_eq!(json_of(&files)["lora_parameters"]["keys"], keys);
    for adapter in [alone, of_tables(false)] {
        let problem = write_mlx(&adapter, &model, &Map::new()).unwrap_err().to_string();
        assert!(
            problem.contains("this adapter's are not the same; write it as PEFT's"),
            "{problem}"
        );
        let files = write_peft(&adapter, &model, &PeftOptions::default()).unwrap();
        assert_eq!(read_on(&files, &model).unwrap(), adapter);
    }
    let problem = read_on(&mlx_files(&of_tables(false)), &model).unwrap_err().to_string();
    assert!(problem.contains("updates `lm_head`, which an MLX model with tied"), "{problem}");
}

#[test]
fn dora_is_of_the_blocks_layers_alone() {
    let mut dora = lora_with_magnitude(Target::Q);
    (dora.a, dora.b) = (vec![0.5; 18], vec![0.5; 120]);
    dora.magnitude = Some(vec![1.0; 40]);
    let head = Adapter::of_modules([(Module::Head, dora)]);
    let problem = head.check("mine", &model()).unwrap_err().to_string();
    assert!(problem.starts_with("mine: `lm_head`: is DoRA's"), "{problem}");
}

#[test]
fn what_does_not_fit_is_not_written() {
    let empty = Adapter::new([]);
    let beyond = adapter(&[(3, Target::Q)]);
    let mixed = Adapter::new([
        ((1, Target::Q), lora(Target::Q, 3, 0.3)),
        ((2, Target::Q), lora_with_magnitude(Target::Q)),
    ]);
    for (adapter, named) in [
        (empty, "updates nothing"),
        (beyond, "only 3 blocks"),
        (mixed, "some of the adapter's updates have DoRA's magnitude and some do not"),
    ] {
        for result in [
            write_mlx(&adapter, &model(), &Map::new()),
            write_peft(&adapter, &model(), &PeftOptions::default()),
        ] {
            let problem = result.unwrap_err().to_string();
            assert!(problem.contains(named), "{problem}");
        }
    }
}

#[test]
fn peft_scales_follow_its_rules() {
    let scale = |extra: Value| {
        let mut config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let files = peft_files(&adapter(&[(1, Target::Q)]));
        let files = AdapterFiles { config_json: config.to_string().into_bytes(), ..files };
        read_files(&files).unwrap().get(1, Target::Q).unwrap().scale
    };
    assert_eq!(scale(json!({})), 2.0);
    assert_eq!(scale(json!({"use_rslora": true})), (6.0 / 3.0_f64.sqrt()) as f32);
    assert_eq!(scale(json!({"alpha_pattern": {"q_proj": 1.5}})), 0.5);
    assert_eq!(scale(json!({"alpha_pattern": {"proj": 1.5, "layers.1.self_attn.q_proj": 3}})), 1.0);
    assert_eq!(scale(json!({"alpha_pattern": {r"layers\.[12]\..*_proj": 3, "q_proj": 9}})), 1.0);
    assert_eq!(scale(json!({"r": 8, "rank_pattern": {"q_proj": 3}})), 2.0);
    assert_eq!(scale(json!({"rank_pattern": null, "modules_to_save": null, "bias": "none"})), 2.0);
}

#[test]
fn a_config_says_dora_and_rslora() {
    let flags = |files: AdapterFiles| {
        let config = json_of(&files);
        (config["use_dora"].clone(), config["use_rslora"].clone(), config["lora_alpha"].clone())
    };
    let q = Lora { rank: 4, a: vec![0.5; 24], b: vec![0.5; 32], ..lora(Target::Q, 1, 1.5) };
    let plain = Adapter::new([((1, Target::Q), q.clone())]);
    let dora = Adapter::new([((1, Target::Q), Lora { magnitude: Some(vec![1.0; 8]), ..q })]);
    assert_eq!(flags(peft_files(&plain)), (json!(false), json!(false), json!(6)));
    assert_eq!(flags(rslora_files(&plain)), (json!(false), json!(true), json!(3)));
    assert_eq!(flags(peft_files(&dora)), (json!(true), json!(false), json!(6)));
    assert_eq!(flags(rslora_files(&dora)), (json!(true), json!(true), json!(3)));
}

#[test]
fn magnitudes_that_config_and_layers_do_not_agree_on_are_named() {
    let q = &[(1, Target::Q)];
    let (plain, dora) = (adapter(q), dora(q));
    let peft = |use_dora: Value| json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "use_dora": use_dora});
    let mlx = |kind| json!({"fine_tune_type": kind, "lora_parameters": {"rank": 3, "scale": 2}});
    for (problem, named) in [
        (
            problem_of(&plain, &peft(json!(true)), None),
            "q_proj.lora_magnitude_vector` is missing, which adapter_config.json's `use_dora: true`",
        ),
        (
            problem_of(&dora, &peft(json!(false)), None),
            "q_proj.lora_magnitude_vector` is DoRA's, but adapter_config.json does not say \
             `use_dora: true`",
        ),
        (problem_of(&dora, &peft(json!(null)), None), "does not say `use_dora: true`"),
        (problem_of(&dora, &peft(json!("yes")), None), "invalid type: string \"yes\""),
        (
            problem_of(&plain, &mlx("dora"), None),
            "q_proj.m` is missing, which adapter_config.json's `fine_tune_type: dora`",
        ),
        (
            problem_of(&dora, &mlx("lora"), None),
            "q_proj.m` is DoRA's, but adapter_config.json does not say `fine_tune_type: dora`",
        ),
    ] {
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn magnitudes_have_the_shape_of_their_layer() {
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 4, "use_dora": true});
    let data: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let read = |magnitudes: &[(&str, &[usize])]| {
        let view = |shape: &[usize]| {
            let bytes = 4 * shape.iter().product::<usize>();
            TensorView::new(Dtype::F32, shape.to_vec(), &data[..bytes]).unwrap()
        };
        let mut tensors = vec![
            (format!("{q}.lora_A.weight"), view(&[1, 2])),
            (format!("{q}.lora_B.weight"), view(&[2, 1])),
        ];
        for (name, shape) in magnitudes {
            tensors.push((format!("{q}.lora_magnitude_vector{name}"), view(shape)));
        }
        let files = AdapterFiles {
            layout: Layout::Peft,
            config_json: config.to_string().into_bytes(),
            weights: serialize(tensors, None).unwrap(),
        };
        let adapter = read_files(&files).map_err(|error| error.to_string())?;
        Ok::<_, String>(adapter.get(0, Target::Q).unwrap().magnitude.clone())
    };
    for (name, shape) in [
        ("", &[2][..]),
        (".weight", &[2]),
        (".weight", &[1, 2]),
        (".weight", &[2, 1]),
        ("", &[2, 1]),
    ] {
        assert_eq!(read(&[(name, shape)]).unwrap(), Some(vec![1.5, -2.0]));
    }
    for (magnitudes, named) in [
        (&[("", &[1][..])][..], "has 1 values, but its layer has 2 outputs"),
        (&[("", &[1, 1, 2])], "has shape [1, 1, 2]; it should be a vector"),
        (&[("", &[])], "has shape []; it should be a vector"),
        (&[("", &[0])], "has shape [0]; it is empty"),
        (&[("", &[2]), (".weight", &[2])], "is a second magnitude of its layer"),
    ] {
        let problem = read(magnitudes).unwrap_err();
        assert!(problem.starts_with("adapter_model.safetensors: tensor `"), "{problem}");
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn a_config_that_asks_for_more_is_named() {
    let peft = |field: &str, value: Value| {
        let mut config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6});
        config[field] = value;
        problem(&config, None)
    };
    let mlx = |config: Value| problem(&config, None);
    for (problem, named) in [
        (
            peft("peft_type", json!("IA3")),
            "peft_type is `IA3`; supported: LORA, BOTTLENECK, MIXED_2",
        ),
        (peft("peft_type", json!("lora")), "peft_type is `lora`; supported: LORA, "),
        (peft("peft_type", json!(null)), "peft_type is `null`; supported: LORA, "),
        (peft("use_qalora", json!(true)), "use_qalora is set"),
        (peft("layer_replication", json!([[0, 2]])), "layer_replication is set"),
        (peft("bias", json!("all")), "bias is `all`; supported: none"),
        (peft("init_lora_weights", json!("pissa")), "init_lora_weights is `pissa`"),
        (peft("target_modules", json!(["q_proj", "embed"])), "has \"embed\"; supported: q_proj"),
        (peft("target_modules", json!([1])), "target_modules has 1"),
        (peft("r", json!(0)), "r is 0"),
        (peft("r", json!(-1)), "invalid value"),
        (peft("r", json!(4)), "q_proj.lora_A.weight` has rank 3, but adapter_config.json says 4"),
        (peft("lora_alpha", json!(null)), "invalid type: null"),
        (peft("lora_alpha", json!(1e300)), "beyond 32-bit floats"),
        (peft("rank_pattern", json!({"q_proj": 0})), "rank_pattern gives `q_proj` the value 0"),
        (peft("alpha_pattern", json!({"(": 1})), "alpha_pattern's `(` is no regular expression"),
        (
            mlx(json!({"fine_tune_type": "ia3"})),
            "fine_tune_type is `ia3`; supported: lora, dora, full",
        ),
        (mlx(json!({"fine_tune_type": "lora"})), "lora_parameters is missing"),
        (mlx(json!({"lora_parameters": {"rank": 3}})), "missing field `scale`"),
        (mlx(json!({"lora_parameters": {"rank": 0, "scale": 1}})), "rank is 0"),
        (mlx(json!({"lora_parameters": {"rank": 4, "scale": 1}})), "lora_a` has rank 3"),
        (mlx(json!({"rank": 3})), "is not an adapter's"),
        (mlx(json!([])), "invalid type: sequence"),
    ] {
        assert!(problem.contains(named), "{problem}");
        let file = if named.contains("has rank") || named.contains("32-bit") {
            "adapter"
        } else {
            "adapter_config.json: "
        };
        assert!(problem.starts_with(file), "{problem}");
    }
}

#[test]
fn a_tensor_that_does_not_belong_is_named() {
    let mlx = json!({"lora_parameters": {"rank": 1, "scale": 1}});
    let peft = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1});
    let mut saved = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 1});
    saved["modules_to_save"] = json!(["lm_head"]);
    let a = "model.layers.1.self_attn.q_proj.lora_a";
    let with = |name: &str, dtype, shape: &[usize], data: &[u8]| {
        problem(&mlx, Some(tensor(name, dtype, shape, data)))
    };
    let none: [(&str, TensorView<'_>); 0] = [];
    for (problem, named) in [
        (
            with("lm_head.lora_c", Dtype::F32, &[1, 1], &[0; 4]),
            "`lm_head.lora_c` is neither an update",
        ),
        (problem(&saved, None), "has no weight of `lm_head`"),
        (problem(&json!({"fine_tune_type": "full"}), None), "which a full fine-tuning has not"),
        (with(a, Dtype::F32, &[1, 1], &[0; 4]), "q_proj.lora_b` is missing"),
        (
            with(&a.replace("lora_a", "lora_b"), Dtype::F32, &[1, 1], &[0; 4]),
            "q_proj.lora_a` is missing",
        ),
        (with(a, Dtype::F32, &[1], &[0; 4]), "has shape [1]; it should be a matrix"),
        (with(a, Dtype::F32, &[0, 1], &[]), "has shape [0, 1]; it is empty"),
        (with(a, Dtype::I32, &[1, 1], &[0; 4]), "has type I32"),
        (with(a, Dtype::F32, &[1, 1], &f32::NAN.to_le_bytes()), "q_proj.lora_a` holds NaN"),
        (problem(&mlx, Some(serialize(none, None).unwrap())), "holds no tensors"),
        (problem(&mlx, Some(vec![1; 7])), "ends at byte 7"),
        (
            problem(&peft, Some(tensor(a, Dtype::F32, &[1, 1], &[0; 4]))),
            "such as `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`",
        ),
    ] {
        assert!(problem.contains(named), "{problem}");
        assert!(problem.contains(".safetensors: "), "{problem}");
    }
}

#[test]
fn half_precision_is_read() {
    let bytes = |dtype| {
        let encode = |value: f32| match dtype {
            Dtype::F16 => half::f16::from_f32(value).to_le_bytes(),
            _ => half::bf16::from_f32(value).to_le_bytes(),
        };
        [1.5_f32, -2.0].map(encode).concat()
    };
    for dtype in [Dtype::F16, Dtype::BF16] {
        let data = bytes(dtype);
        let view = |shape: [usize; 2]| TensorView::new(dtype, shape.to_vec(), &data).unwrap();
        let q = "model.layers.0.self_attn.q_proj";
        let tensors =
            [(format!("{q}.lora_a"), view([2, 1])), (format!("{q}.lora_b"), view([1, 2]))];
        let files = AdapterFiles {
            layout: Layout::Mlx,
            config_json: br#"{"lora_parameters": {"rank": 1, "scale": 4}}"#.to_vec(),
            weights: serialize(tensors, None).unwrap(),
        };
        let adapter = read_files(&files).unwrap();
        let expected =
            Lora { a: vec![1.5, -2.0], b: vec![1.5, -2.0], rank: 1, scale: 4.0, magnitude: None };
        assert_eq!(adapter.get(0, Target::Q), Some(&expected));
    }
}

#[test]
fn magnitudes_count_as_parameters() {
    assert_eq!(AnyAdapter::Lora(dora(&[(1, Target::Q)])).count(), 6 * 3 + 3 * 8 + 8);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner), 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_finite_adapter_comes_back_exactly(
        values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL, 50),
        scale in prop::num::f32::NORMAL,
        is_dora: bool,
    ) {
        let (a, b) = (values[..18].to_vec(), values[18..42].to_vec());
        let magnitude = is_dora.then(|| values[42..].to_vec());
        let adapter = Adapter::new([((2, Target::Q), Lora { a, b, rank: 3, scale, magnitude })]);
        for files in [mlx_files(&adapter), peft_files(&adapter), rslora_files(&adapter)] {
            prop_assert_eq!(&read_files(&files).unwrap(), &adapter);
        }
    }

    #[test]
    fn no_config_panics(
        field in prop::sample::select(&[
            "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules",
            "use_rslora", "modules_to_save", "fine_tune_type", "lora_parameters", "bias", "use_dora",
        ][..]),
        value in any_json(),
    ) {
        for layout in [Layout::Mlx, Layout::Peft] {
            let adapter = adapter(&[(1, Target::Q)]);
            let mut files = match layout {
                Layout::Mlx => mlx_files(&adapter),
                Layout::Peft => peft_files(&adapter),
            };
            let mut config = json_of(&files);
            config[field] = value.clone();
            files.config_json = config.to_string().into_bytes();
            if let Ok(read) = read_files(&files) {
                prop_assert!(read.get(1, Target::Q).unwrap().scale.is_finite());
            }
        }
    }

    #[test]
    fn no_damage_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        of_config: bool,
    ) {
        let mut files = mlx_files(&dora(&[(1, Target::Q)]));
        let bytes = if of_config { &mut files.config_json } else { &mut files.weights };
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(read) = read_files(&files) {
            for (_, _, lora) in read.iter() {
                prop_assert!(lora.a.iter().chain(&lora.b).all(|value| value.is_finite()));
            }
        }
    }
}
