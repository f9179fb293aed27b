//! The model of the page (`data/models/engram-tiny.gguf`), run natively.

mod tiny;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tiny::{engram, golden, stdout};

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
    let settings = "--num-layers -1 --learning-rate 2e-3 --batch-size 8 --iters 20 --mask-prompt \
                    --steps-per-report 5 --val-batches 0";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    ran(&[&["train", "--data", data, "--adapter-path", adapter], &settings[..]].concat());
    let metrics = fs::read_to_string(Path::new(adapter).join("metrics.jsonl")).unwrap();
    let losses: Vec<f64> = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["train_loss"].as_f64())
        .collect();
    assert_eq!(losses.len(), 4, "{metrics}");
    assert!(losses[3] < losses[0] / 2.0, "{losses:?}");
}
