//! `engram bench` on a tiny model.

mod tiny;

use serde_json::Value;
use tiny::{engram, error, stdout};

/// The report of a run, and what it printed.
fn bench(arguments: &[&str]) -> (Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.json");
    let mut command = engram(&["bench", "--runs", "1", "--json", file.to_str().unwrap()]);
    let table = stdout(command.args(arguments).output().unwrap());
    (serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap(), table)
}

fn median(report: &Value, name: &str) -> f64 {
    let figures = report["figures"].as_array().unwrap();
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure.unwrap_or_else(|| panic!("no {name} in {figures:?}"))["median"].as_f64().unwrap()
}

#[test]
fn figures_are_printed_and_written() {
    let (report, table) = bench(&["load", "first", "prefill", "generate", "host", "inferena"]);
    assert_eq!(report["engine"], "wgpu");
    for name in ["load", "first token of 32", "prefill, 128 tokens", "decode 64 tokens after 128"] {
        assert!(median(&report, name) > 0.0, "{name}");
        assert!(table.contains(name), "{table}");
    }
    // What the tiny model's context of 256 has no room for is left out.
    assert!(!table.contains("512 tokens"), "{table}");
    // Five for each of its three blocks, and the four around them.
    assert_eq!(median(&report, "dispatches per token"), 19.0);
    assert_eq!(median(&report, "bind groups per token"), 0.0);
    assert_eq!(median(&report, "buffers per token"), 0.0);
    assert_eq!(median(&report, "submits per token"), 0.25);
    assert!(median(&report, "host encoding per token") > 0.0);
    assert!(median(&report, "inferena training step") > 0.0);
    assert!(median(&report, "inferena loss") > 0.0);
}

#[test]
fn training_and_evaluation_are_measured() {
    let (report, _) = bench(&["train", "evaluate", "--no-autotune"]);
    assert!(median(&report, "training step, 4 chats") > 0.0);
    assert_eq!(median(&report, "buffers per training step"), 0.0);
    assert!(median(&report, "evaluation, original") > 0.0);
}

#[test]
fn the_time_of_each_kernel_is_told() {
    let (report, table) = bench(&["kernels"]);
    let works = report["kernels"].as_array().unwrap();
    let names: Vec<&str> = works.iter().map(|work| work["work"].as_str().unwrap()).collect();
    assert_eq!(names, ["a prompt of 128 tokens", "a token after 128", "a training step"]);
    let kernels = works[1]["kernels"].as_array().unwrap();
    let dispatches: u64 = kernels.iter().map(|k| k["dispatches"].as_u64().unwrap()).sum();
    assert_eq!(dispatches, 19);
    assert!(table.contains("sample"), "{table}");
}

#[test]
fn a_file_that_can_not_be_written_is_found_before_anything_is_measured() {
    let error = error(engram(&["bench", "--json", "/dev/null/x/bench.json"]).output().unwrap());
    assert!(error.contains("/dev/null/x"), "{error}");
}
