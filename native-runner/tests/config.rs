//! `engram train --config` and what a run's folder says of it, run as a user runs it.

mod tiny;

use std::fs;
use std::path::Path;

use serde_json::Value;

use tiny::{engram, error, golden, stdout};

/// MLX-LM's own example, with our small sizes.
const MLX: &str = "\
# The path to the local model directory or Hugging Face repo.
train: true
fine_tune_type: lora
optimizer: adamw
optimizer_config:
  adamw:
    betas: [0.9, 0.999]
    eps: 1e-8
    weight_decay: 0.05
seed: 3
num_layers: 2
batch_size: 2
iters: 6
val_batches: 2
learning_rate: 1e-3
steps_per_report: 2
steps_per_eval: 3
resume_adapter_file: null
save_every: 100
test: false
test_batches: 100
max_seq_length: 128
grad_checkpoint: false
lora_parameters:
  keys: [\"self_attn.q_proj\", \"self_attn.v_proj\"]
  rank: 2
  scale: 20.0
  dropout: 0.0
";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The metrics that do not depend on the clock.
fn losses(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for clocked in ["seconds", "iterations_per_second", "tokens_per_second"] {
            line.remove(clocked);
        }
    }
    lines
}

#[test]
fn a_run_folder_repeats_the_run() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("run.yaml");
    fs::write(&config, MLX).unwrap();
    let (first, second) = (root.path().join("x"), root.path().join("y"));
    let of = |config: &Path, folder: &Path, more: &[&str]| {
        let (config, folder) = (config.to_str().unwrap(), folder.to_str().unwrap());
        let own = ["train", "-c", config, "--adapter-path", folder];
        engram(&[&own, more].concat()).output().unwrap()
    };
    let data = golden("tiny_mlx");
    stdout(of(&config, &first, &["--data", data.to_str().unwrap()]));
    stdout(of(&first.join("config.yaml"), &second, &[]));
    assert_eq!(losses(&first), losses(&second));
    assert!(losses(&first).len() == 6, "{:?}", losses(&first));
    let adapter = |folder: &Path| fs::read(folder.join("adapters.safetensors")).unwrap();
    assert!(adapter(&first) == adapter(&second));
    let settings = |folder: &Path| {
        let text = fs::read_to_string(folder.join("config.yaml")).unwrap();
        text.replace(folder.to_str().unwrap(), "FOLDER")
    };
    assert_eq!(settings(&first), settings(&second));
    assert!(settings(&first).contains("weight_decay: 0.05"), "{}", settings(&first));

    let (record, again) = (json(&first.join("run.json")), json(&second.join("run.json")));
    for same in ["model", "data", "seed", "init_adapter", "trainable_parameters"] {
        assert_eq!(record[same], again[same], "{same}");
    }
    assert_eq!(record["seed"], 3);
    let files = |of: &str| -> Vec<String> {
        let files = record[of]["files"].as_array().unwrap();
        assert!(files.iter().all(|file| file["sha256"].as_str().unwrap().len() == 64));
        let name = |file: &Value| {
            let path = Path::new(file["path"].as_str().unwrap());
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        files.iter().map(name).collect()
    };
    assert_eq!(files("data"), ["train.jsonl", "valid.jsonl"]);
    assert!(files("model").contains(&"model.safetensors".to_owned()));
    let session = &record["sessions"][0];
    assert_eq!(session["status"], "done");
    assert_eq!((&session["from_iteration"], &session["to_iteration"]), (&0.into(), &6.into()));
    assert_eq!(session["engine"], "wgpu");
    for text in ["started", "ended", "version"] {
        assert!(!session[text].as_str().unwrap().is_empty(), "{text}");
    }
    for text in ["name", "backend", "driver"] {
        assert!(!session["device"][text].as_str().unwrap().is_empty(), "{text}");
    }
    let command = session["command"].as_array().unwrap();
    assert!(command.contains(&"--adapter-path".into()), "{command:?}");

    // Going on with more iterations is a second session of the same run.
    stdout(of(&first.join("config.yaml"), &first, &["--resume", "--iters", "8"]));
    let resumed = json(&first.join("run.json"));
    assert_eq!(resumed["sessions"][0], record["sessions"][0]);
    assert_eq!(resumed["sessions"][1]["from_iteration"], 6);
    assert_eq!(resumed["sessions"][1]["to_iteration"], 8);
    assert!(settings(&first).contains("iters: 8"));
}

#[test]
fn a_run_from_an_adapter_says_which() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("a"), root.path().join("b"));
    let data = golden("tiny_mlx");
    let shape = ["--num-layers", "1", "--rank", "2", "--keys", "q_proj", "--iters", "1"];
    let own = ["train", "--data", data.to_str().unwrap(), "--val-batches", "0"];
    let to = |folder: &Path, more: &[&str]| {
        let folder = ["--adapter-path", folder.to_str().unwrap()];
        stdout(engram(&[&own[..], &shape, &folder, more].concat()).output().unwrap())
    };
    to(&first, &[]);
    to(&second, &["--init-adapter", first.to_str().unwrap()]);
    let record = json(&second.join("run.json"));
    assert_eq!(record["init_adapter"]["files"].as_array().unwrap().len(), 2);
    assert_eq!(json(&first.join("run.json"))["init_adapter"], Value::Null);
    // Its settings name the adapter, which a resumed run has in its checkpoint.
    let config = second.join("config.yaml");
    assert!(fs::read_to_string(&config).unwrap().contains("init_adapter: "));
    let arguments = ["train", "-c", config.to_str().unwrap(), "--resume", "--iters", "2"];
    stdout(engram(&arguments).output().unwrap());
}

#[test]
fn a_bad_config_is_one_line_before_anything_is_loaded() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run.yaml");
    let folder = root.path().join("out");
    for (text, expected) in [
        (
            "learning_rte: 1e-5\n",
            "run.yaml:1: no key `learning_rte`; the nearest is `learning_rate`",
        ),
        ("iters: 5\nlr_schedule:\n  name: cosine\n", "run.yaml:3: `lr_schedule.name`: invalid"),
        (
            "iters: 2\ntrain: false\n",
            "run.yaml:2: `train`: --train false leaves nothing to do; add --test",
        ),
        ("iters: many\n", "run.yaml:1: `iters`: invalid value 'many'"),
        ("seed: 1\niters: 0\n", "run.yaml:2: `iters`: iters is 0; it is at least 1"),
        ("iters: [\n", "run.yaml:"),
        ("iters: 1\niters: 2\n", "run.yaml:2: "),
        ("a string\n", "run.yaml:1: not a map"),
    ] {
        fs::write(&path, text).unwrap();
        let (path, folder) = (path.to_str().unwrap(), folder.to_str().unwrap());
        let arguments = ["train", "-c", path, "--adapter-path", folder, "--model", "no-such.gguf"];
        let problem = error(engram(&arguments).output().unwrap());
        assert!(problem.contains(expected), "{problem}");
        assert!(!Path::new(folder).exists());
    }
    let missing = error(engram(&["train", "-c", "no-such.yaml"]).output().unwrap());
    assert!(missing.contains("no-such.yaml: No such file"), "{missing}");
}

#[test]
fn a_printed_config_prints_itself() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run.yaml");
    let printed = |more: &[&str]| {
        stdout(engram(&[&["train", "--print-config"], more].concat()).output().unwrap())
    };
    let first = printed(&["--learning-rate", "3e-4", "--rank", "4", "--mask-prompt"]);
    assert!(first.contains("learning_rate: 0.0003\n") && first.contains("  rank: 4\n"), "{first}");
    fs::write(&path, &first).unwrap();
    assert_eq!(printed(&["--config", path.to_str().unwrap()]), first);
}
