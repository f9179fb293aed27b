//! `engram inspect`, `convert` and `fuse` on the tiny models.

mod tiny;

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tiny::{engram, error, golden, stdout};

/// An empty folder, and paths in it as arguments.
struct Out(TempDir);

impl Out {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Every name in it.
    fn names(&self) -> Vec<String> {
        names(self.0.path())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn ran(arguments: &[&str]) -> String {
    stdout(engram(arguments).output().unwrap())
}

#[track_caller]
fn failed(arguments: &[&str]) -> String {
    error(engram(arguments).output().unwrap())
}

fn inspect(path: &str) -> Value {
    let found: Value = serde_json::from_str(&ran(&["inspect", "--json", path])).unwrap();
    found[0].clone()
}

const IDS: &str = "5,17,30,41,52,63,74,85,96,107";

/// The logits of the last position.
fn logits(arguments: &[&str]) -> Vec<f64> {
    let words = [&["logits", "--ids", IDS, "--json"], arguments].concat();
    let found: Value = serde_json::from_str(&ran(&words)).unwrap();
    let last = found["logits"].as_array().unwrap().last().unwrap();
    last.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// Relative L2.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    assert_eq!(a.len(), b.len());
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn a_fused_model_computes_what_model_and_adapter_do() {
    let out = Out::new();
    let adapter = golden("tiny_adapter_peft");
    let adapter = arg(&adapter);
    let expected = logits(&["--adapter-path", adapter]);
    assert!(distance(&logits(&[]), &expected) > 1e-2);
    for (name, format) in [("fused", "safetensors"), ("fused.gguf", "gguf")] {
        let path = out.path(name);
        let said = ran(&["fuse", "--adapter-path", adapter, "--out", &path, "--format", format]);
        assert!(said.ends_with("29 tensors (29 F32)\n"), "{said}");
        assert!(distance(&logits(&["--model", &path]), &expected) < 1e-5, "{name}");
    }
    assert_eq!(out.names(), ["fused", "fused.gguf"]);
    assert_eq!(names(Path::new(&out.path("fused"))).len(), 5);
}

#[test]
fn a_quantised_model_keeps_its_types_or_gets_others() {
    let out = Out::new();
    let (model, adapter) = (golden("tiny_q4_1.gguf"), golden("tiny_adapter_dora"));
    let fuse = |name: &str, more: &[&str]| {
        let path = out.path(name);
        let words = ["fuse", "--model", arg(&model), "--adapter-path", arg(&adapter), "--out"];
        ran(&[&words[..], &[&path], more].concat())
    };
    for (name, more, types) in [
        ("own.gguf", &[][..], "29 tensors (21 Q4_1, 7 F32, 1 Q8_0)"),
        ("q8_0.gguf", &["--quantize", "q8_0"], "29 tensors (22 Q8_0, 7 F32)"),
        ("q5_1.gguf", &["--quantize", "q5_1"], "29 tensors (21 Q5_1, 7 F32, 1 Q8_0)"),
        ("f32.gguf", &["--dequantize", "f32"], "29 tensors (29 F32)"),
        ("f16", &["--format", "safetensors"], "29 tensors (29 F16)"),
    ] {
        let said = fuse(name, more);
        assert!(said.contains(types), "{said}");
        let counted: u64 = inspect(&out.path(name))["tensor_types"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["tensors"].as_u64().unwrap())
            .sum();
        assert_eq!(counted, 29, "{name}");
    }
    let floats = logits(&["--model", &out.path("f32.gguf")]);
    for (name, lost) in [("f16", 1e-2), ("q8_0.gguf", 1e-1), ("q5_1.gguf", 5e-1)] {
        let found = distance(&logits(&["--model", &out.path(name)]), &floats);
        assert!(found < lost && found > 0.0, "{name}: {found}");
    }
}

#[test]
fn an_adapter_goes_through_every_layout_unchanged() {
    let out = Out::new();
    let first = golden("tiny_adapter_mlx");
    let mut from = arg(&first).to_owned();
    for (to, name) in
        [("peft", "peft"), ("gguf", "lora.gguf"), ("mlx", "mlx"), ("gguf", "b.gguf"), ("peft", "b")]
    {
        let path = out.path(name);
        let said = ran(&["convert", &from, "--to", to, "--out", &path]);
        assert_eq!(said, format!("{path}: 14 updates of linear layers\n"));
        from = path;
    }
    let read = |name: &str, file: &str| fs::read(Path::new(&out.path(name)).join(file)).unwrap();
    let weights = "adapter_model.safetensors";
    assert!(read("peft", weights) == read("b", weights));
    assert_eq!(read("peft", "adapter_config.json"), read("b", "adapter_config.json"));
    assert!(fs::read(out.path("lora.gguf")).unwrap() == fs::read(out.path("b.gguf")).unwrap());
    let mlx = inspect(&out.path("mlx"));
    assert_eq!((&mlx["scale"], &mlx["rank"]), (&2.5.into(), &4.into()));

    let expected = logits(&["--adapter-path", arg(&first)]);
    assert_eq!(logits(&["--adapter-path", &out.path("lora.gguf")]), expected);
    let fused = out.path("fused");
    ran(&["fuse", "--adapter-path", &out.path("lora.gguf"), "--out", &fused]);
    assert!(distance(&logits(&["--model", &fused]), &expected) < 1e-5);
}

#[test]
fn a_model_goes_to_gguf_and_back_unchanged() {
    let out = Out::new();
    let (tiny, gguf, back) = (golden("tiny"), out.path("m.gguf"), out.path("back"));
    ran(&["convert", arg(&tiny), "--to", "gguf", "--out", &gguf]);
    ran(&["convert", &gguf, "--to", "safetensors", "--out", &back]);
    let prompt = ["generate", "Say 123 things", "--max-new-tokens", "12"];
    let expected = ran(&prompt);
    for model in [&gguf, &back] {
        assert_eq!(logits(&["--model", model]), logits(&[]));
        assert_eq!(ran(&[&["--model", model], &prompt[..]].concat()), expected);
    }
    let again = out.path("again.gguf");
    ran(&["convert", &back, "--to", "gguf", "--out", &again]);
    let (first, again) = (inspect(&gguf), inspect(&again));
    for key in ["tokenizer", "chat_template", "eos_token_id", "tensor_types", "rope_theta"] {
        assert_eq!(first[key], again[key], "{key}");
    }
    // Nothing to change: the same bytes.
    let same = out.path("same.gguf");
    ran(&["convert", &gguf, "--to", "gguf", "--out", &same]);
    assert!(fs::read(&gguf).unwrap() == fs::read(&same).unwrap());
}

#[test]
fn a_large_model_goes_to_several_files() {
    let root = tempfile::tempdir().unwrap();
    let out = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let (tiny, whole, parts) = (golden("tiny"), out("whole"), out("parts"));
    fn to<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["--to", "safetensors", "--out", out][..], more].concat()
    }
    let to = |out, more| [&["convert", arg(&tiny)][..], &to(out, more)].concat();
    ran(&to(&whole, &["--max-shard-size", "1GB"]));
    assert!(!names(Path::new(&whole)).iter().any(|name| name.contains("index")));
    let said = ran(&to(&parts, &["--max-shard-size", "20KB"]));
    let files = names(Path::new(&parts));
    let shards: Vec<&String> = files.iter().filter(|name| name.contains("-of-")).collect();
    assert!(shards.len() > 2 && said.contains(&format!(" in {} files, ", shards.len())), "{said}");
    assert_eq!(*shards[0], format!("model-00001-of-{:05}.safetensors", shards.len()));
    let index = std::fs::read(Path::new(&parts).join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    assert!(shards.iter().all(|shard| map.values().any(|file| file == shard.as_str())));
    let shown = |model: &str| logits(&["--model", model]);
    assert_eq!(shown(&parts), shown(&whole));

    let again = failed(&to(&parts, &[]));
    assert!(again.contains("holds a model in several parts"), "{again}");
    let over = failed(&to(&whole, &["--max-shard-size", "20KB"]));
    assert!(over.contains("model.safetensors: is there, and would be read"), "{over}");
    let gguf = failed(&[
        "convert",
        arg(&tiny),
        "--to",
        "gguf",
        "--out",
        "x.gguf",
        "--max-shard-size",
        "1MB",
    ]);
    assert!(gguf.contains("a GGUF model is one file"), "{gguf}");
    for size in ["5", "GB", "0GB", "5TB", "99999999999999999999GB", "99999999999999GB"] {
        let convert = ["convert", arg(&tiny), "--to", "safetensors", "--out", "x"];
        let refused = engram(&[&convert[..], &["--max-shard-size", size]].concat()).output();
        let refused = refused.unwrap();
        assert_eq!(refused.status.code(), Some(2), "{size}");
    }
}

#[test]
fn inspect_tells_what_everything_is() {
    for (name, kind, key, value) in [
        ("tiny_q4_1.gguf", "GGUF model", "num_hidden_layers", Value::from(3)),
        ("tiny", "model in safetensors", "hidden_size", 64.into()),
        ("tiny_adapter_mlx", "adapter in MLX's files", "adapter_type", "LoRA".into()),
        ("tiny_adapter_rslora", "adapter in PEFT's files", "adapter_type", "rsLoRA".into()),
        ("tiny_adapter_dora", "adapter in PEFT's files", "adapter_type", "DoRA".into()),
        ("tiny_adapter_bottleneck", "adapter in PEFT's files", "adapter_type", "BOTTLENECK".into()),
        ("tiny_forward.safetensors", "safetensors", "parameters", 17_797.into()),
    ] {
        let path = golden(name);
        let found = inspect(arg(&path));
        assert_eq!((&found["kind"], &found[key]), (&kind.into(), &value), "{name}");
        let text = ran(&["inspect", arg(&path)]);
        assert!(text.starts_with(&format!("{}: {kind}\n", arg(&path))), "{text}");
    }
    let (a, b) = (golden("tiny"), golden("tiny_odd"));
    let problem = failed(&["inspect", arg(&a), arg(&b)]);
    assert!(problem.contains("tokenizer.json"), "{problem}");
}

#[test]
fn inspect_tells_how_far_a_training_is() {
    let out = Out::new();
    let (data, adapter) = (golden("tiny_mlx"), out.path("adapter"));
    let words = ["train", "--quiet", "--data", arg(&data), "--adapter-path", &adapter];
    let settings = "--iters 3 --save-every 2 --rank 2 --num-layers 1 --batch-size 1";
    ran(&[&words[..], &settings.split(' ').collect::<Vec<_>>()].concat());
    let checkpoint = Path::new(&adapter).join("checkpoint.safetensors");
    let found = inspect(checkpoint.to_str().unwrap());
    assert_eq!(found["kind"], "checkpoint of a training");
    assert_eq!((&found["iteration"], &found["metadata"]["rank"]), (&3.into(), &2.into()));
    assert_eq!((&found["iterations_to_go"], &found["metadata"]["iters"]), (&0.into(), &3.into()));
    assert_eq!(inspect(&adapter)["rank"], 2);
}

#[test]
fn what_can_not_be_done_is_one_line_and_leaves_nothing() {
    let out = Out::new();
    let (tiny, lora, dora) =
        (golden("tiny"), golden("tiny_adapter_mlx"), golden("tiny_adapter_dora"));
    let (bottleneck, whole) = (golden("tiny_adapter_bottleneck"), golden("tiny_q8_0.gguf"));
    let (gguf, folder) = (out.path("x.gguf"), out.path("x"));
    let (cut, junk) = (out.path("cut.gguf"), out.path("junk.safetensors"));
    let bytes = fs::read(&whole).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(&junk, b"junk").unwrap();
    let plain = golden("quants.json");
    let fuse = |adapter, out, more: &[&str]| {
        failed(&[&["fuse", "--adapter-path", adapter, "--out", out], more].concat())
    };
    let convert = |from, to, out| failed(&["convert", from, "--to", to, "--out", out]);
    for (problem, named) in [
        (fuse(arg(&bottleneck), &folder, &[]), "no change of weights to fuse"),
        (fuse(arg(&lora), &gguf, &["--format", "safetensors"]), "name a folder"),
        (fuse(arg(&lora), &folder, &["--format", "gguf"]), "name a file that ends in .gguf"),
        (fuse(arg(&lora), arg(&tiny), &[]), "is what is read"),
        (fuse(arg(&lora), &folder, &["--quantize", "q8_0"]), "safetensors has no Q8_0"),
        (fuse(&cut, &folder, &[]), "truncated"),
        (fuse(arg(&whole), &folder, &[]), "is a model, not an adapter"),
        (fuse("nowhere", &folder, &[]), "nowhere: no such folder"),
        (convert(arg(&dora), "gguf", &gguf), "fuse the adapter into the model"),
        (convert(arg(&dora), "safetensors", &folder), "--to mlx or --to peft"),
        (convert(arg(&bottleneck), "peft", &folder), "use it as it is"),
        (convert(arg(&lora), "mlx", arg(&lora)), "give another --out"),
        (convert(arg(&tiny), "peft", &folder), "is a model"),
        (convert(&cut, "safetensors", &folder), "truncated"),
        (failed(&["inspect", &cut]), "truncated"),
        (failed(&["inspect", &junk]), "junk.safetensors: ends at byte 4"),
        (failed(&["inspect", arg(&plain)]), "neither GGUF nor safetensors"),
        (failed(&["inspect", &out.path("no")]), "No such file"),
        (
            failed(&["generate", "x", "--quantize", "q4_1"]),
            "--quantize q4_1 is for files; at load there are f32, f16, q8_0 and q4_0",
        ),
    ] {
        assert!(problem.contains(named), "{problem}");
    }
    assert_eq!(out.names(), ["cut.gguf", "junk.safetensors"]);
}
