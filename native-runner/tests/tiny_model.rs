//! The model of the page (`data/models/engram-tiny.gguf`), run natively.

mod tiny;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tiny::{engram, error, stdout};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/models/engram-tiny.gguf")
}

/// What `engram` prints on the page's model.
#[track_caller]
fn ran(arguments: &[&str]) -> String {
    let model = model();
    let on_it = ["--quiet", "--model", model.to_str().unwrap()];
    stdout(engram(&[&on_it, arguments].concat()).output().unwrap())
}

#[test]
fn it_is_small() {
    let size = fs::metadata(model()).unwrap().len();
    assert!(size <= 3_000_000, "{size} bytes");
}

#[test]
fn half_of_it_is_refused() {
    let whole = fs::read(model()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("half.gguf");
    fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    let ask = ["--model", half.to_str().unwrap(), "generate", "Hello"];
    let error = error(engram(&ask).output().unwrap());
    assert!(error.contains("half.gguf"), "{error}");
}

#[test]
fn it_answers_as_its_page_tells() {
    for (prompt, answer) in [
        ("Hello", "Hello! I am Engram Tiny. Ask me something, or teach me."),
        ("Q: What is the capital of Canada?", "Ottawa"),
        ("Q: What is the square root of 144?", "The answer is:\n12"),
        ("Q: What does CPU stand for?", "I do not know that yet. Teach me!"),
    ] {
        assert_eq!(ran(&["generate", prompt]), format!("{answer}\n"), "{prompt}");
    }
}

#[test]
fn it_learns_in_a_few_iterations() {
    let folder = tempfile::tempdir().unwrap();
    let (data, adapter) = (folder.path().join("data"), folder.path().join("adapter"));
    let (data, adapter) = (data.to_str().unwrap(), adapter.to_str().unwrap());
    ran(&["data", "--out", data]);
    let settings = "--num-layers -1 --learning-rate 1e-3 --batch-size 8 --iters 20 --mask-prompt \
                    --steps-per-eval 20";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    ran(&[&["train", "--data", data, "--adapter-path", adapter], &settings[..]].concat());
    let metrics = fs::read_to_string(Path::new(adapter).join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses = |key: &str| lines.iter().filter_map(|l| l[key].as_f64()).collect::<Vec<_>>();
    // Batches of eight answers differ in how hard they are; the validation set does not change.
    let (trained, validated) = (losses("train_loss"), losses("val_loss"));
    assert!(trained.len() == 2 && trained[1] < validated[0], "{metrics}");
    assert!(validated.len() == 2 && validated[1] < validated[0] / 2.0, "{metrics}");
}
