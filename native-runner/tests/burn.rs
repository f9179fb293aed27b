//! The second engine, run as a user runs it, on the tiny models.
#![cfg(feature = "burn")]

mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tiny::{engram, error, golden, stdout};

/// `engram` with `arguments` on burn's CPU backend.
fn burn(arguments: &[&str]) -> Command {
    engram(&[&["--engine", "burn"], arguments].concat())
}

fn ran(arguments: &[&str]) -> String {
    stdout(burn(arguments).output().unwrap())
}

/// `engram train` on the data of the goldens, into `folder`.
fn train(folder: &Path, options: &[&str]) -> Command {
    let (data, folder) = (golden("tiny_mlx"), folder.to_str().unwrap());
    let common = ["train", "--data", data.to_str().unwrap(), "--adapter-path", folder];
    burn(&[&common, options].concat())
}

/// The lines of a run's metrics, without what depends on the clock and the system.
fn numbers(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        for measured in
            ["seconds", "iterations_per_second", "tokens_per_second", "peak_memory_bytes"]
        {
            fields.remove(measured);
        }
        line
    };
    text.lines().map(line).collect()
}

fn losses(folder: &Path, key: &str) -> Vec<f64> {
    numbers(folder).iter().filter_map(|line| line[key].as_f64()).collect()
}

#[test]
fn both_engines_say_and_learn_the_same() {
    let root = tempfile::tempdir().unwrap();
    let ask = ["generate", "say cat", "--max-new-tokens", "12"];
    let mut said = Vec::new();
    let mut curves = Vec::new();
    for engine in ["wgpu", "burn"] {
        let folder = root.path().join(engine);
        let (data, path) = (golden("tiny_mlx"), folder.to_str().unwrap());
        let data = ["train", "--data", data.to_str().unwrap(), "--adapter-path", path];
        let settings = "--iters 10 --learning-rate 1e-3 --num-layers 2 --steps-per-report 1 \
                        --steps-per-eval 5 --max-grad-norm 1";
        let settings: Vec<&str> = settings.split_whitespace().collect();
        let on = ["--engine", engine];
        stdout(engram(&[&on[..], &data, &settings].concat()).output().unwrap());
        let adapter = ["--adapter-path", path];
        for more in [&[][..], &adapter] {
            said.push(stdout(engram(&[&on[..], &ask, more].concat()).output().unwrap()));
        }
        curves.push(["train_loss", "val_loss", "gradient_norm"].map(|key| losses(&folder, key)));
    }
    assert_eq!(said[..2], said[2..]);
    assert_ne!(said[0], said[1], "the adapter changes nothing");
    for (ours, burns) in curves[0].iter().zip(&curves[1]) {
        assert_eq!(ours.len(), burns.len());
        for (a, b) in ours.iter().zip(burns) {
            assert!((a - b).abs() <= 1e-4, "{ours:?} {burns:?}");
        }
    }
}

#[test]
fn auto_says_what_it_takes_and_how_to_take_the_other() {
    let output = engram(&["--engine", "auto", "generate", "hi", "--max-new-tokens", "2"]).output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    let line = said.lines().find(|line| line.starts_with("engine: ")).unwrap();
    let other = if line.contains("engine: wgpu") { "--engine burn" } else { "--engine wgpu" };
    assert!(line.contains(", since ") && line.contains(other), "{line}");
    // An adapter of the GPU's kind leaves no choice.
    let output = engram(&["--engine", "auto", "--adapter", "0", "generate", "hi"]).output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("engine: wgpu, since --adapter names a GPU adapter"), "{said}");
}

#[test]
fn every_adapter_type_learns_is_saved_and_loaded() {
    let root = tempfile::tempdir().unwrap();
    let answer =
        |more: &[&str]| ran(&[&["generate", "say cat", "--max-new-tokens", "12"], more].concat());
    for (kind, format) in
        [("rslora", "peft"), ("dora", "mlx"), ("dora", "peft"), ("bottleneck", "peft")]
    {
        let folder: PathBuf = root.path().join(format!("{kind}-{format}"));
        let settings = "--num-layers -1 --learning-rate 1e-2 --rank 4 --steps-per-eval 30";
        let mut options: Vec<&str> = settings.split_whitespace().collect();
        options.extend(["--adapter-type", kind, "--format", format]);
        stdout(train(&folder, &[&options[..], &["--iters", "30"]].concat()).output().unwrap());
        let losses = losses(&folder, "val_loss");
        assert!(losses.len() == 2 && losses[1] < losses[0] - 0.1, "{kind}: {losses:?}");
        let adapter = ["--adapter-path", folder.to_str().unwrap()];
        assert_ne!(answer(&adapter), answer(&[]), "{kind} changes nothing");

        // Only burn computes the last one; the other engine says so.
        let short = ["generate", "say cat", "--max-new-tokens", "12", "--cache-type", "f32"];
        let ours = [&["--engine", "wgpu"], &short[..], &adapter].concat();
        let ours = engram(&ours).output().unwrap();
        match kind {
            "bottleneck" => assert!(error(ours).contains("--engine burn")),
            _ => assert_eq!(stdout(ours), answer(&adapter), "{kind}"),
        }
        // It is where another run begins: one update later than the last validation.
        let on = root.path().join(format!("{kind}-{format}-on"));
        let init = ["--init-adapter", folder.to_str().unwrap(), "--iters", "1"];
        stdout(train(&on, &[&options[..], &init].concat()).output().unwrap());
        let begun = self::losses(&on, "val_loss")[0];
        let other = ["--adapter-type", kind, "--init-adapter", folder.to_str().unwrap()];
        let other = [&other[..], &["--num-layers", "-1", "--rank", "3"]].concat();
        let refused = error(train(&root.path().join("no"), &other).output().unwrap());
        assert!(refused.contains("--rank"), "{refused}");
        assert!((begun - losses[1]).abs() < 0.5 * (losses[0] - losses[1]), "{kind}: {begun}");
    }
}

#[test]
fn killed_and_interrupted_runs_resume_with_the_same_numbers() {
    let root = tempfile::tempdir().unwrap();
    let settings = "--num-layers 1 --rank 2 --batch-size 1 --learning-rate 1e-2 --iters 60 \
                    --steps-per-report 2 --steps-per-eval 5 --grad-accumulation-steps 3 \
                    --save-every 1 --format peft";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    for (kind, signal) in [("lora", "-KILL"), ("bottleneck", "-INT"), ("dora", "-INT")] {
        let options = [&settings[..], &["--adapter-type", kind]].concat();
        let (whole, stopped) =
            (root.path().join(kind).join("whole"), root.path().join(kind).join("stopped"));
        stdout(train(&whole, &options).output().unwrap());
        let mut child =
            train(&stopped, &options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        // Past the first checkpoint, before the end.
        let lines = || fs::read_to_string(stopped.join("metrics.jsonl")).unwrap_or_default();
        while lines().lines().count() < 6 {
            assert!(began.elapsed() < Duration::from_secs(60), "no metrics");
            std::thread::sleep(Duration::from_millis(1));
        }
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        child.wait().unwrap();
        assert!(numbers(&stopped).len() < numbers(&whole).len(), "it was done already");
        stdout(train(&stopped, &["--resume", "--format", "peft"]).output().unwrap());
        assert_eq!(numbers(&stopped), numbers(&whole), "{kind}");
        for name in ["adapter_model.safetensors", "checkpoint.safetensors"] {
            let same = fs::read(stopped.join(name)).unwrap() == fs::read(whole.join(name)).unwrap();
            assert!(same, "{kind}: {name} differs");
        }
    }
}

#[test]
fn the_whole_experiment_runs_and_names_the_engine() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("run");
    let said = ran(&["pipeline", "--quick", "--out", out.to_str().unwrap()]);
    assert!(said.contains("honest protocol") && said.contains("report: "), "{said}");
    let report = fs::read_to_string(out.join("report-honest/report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let environment = report["environment"].to_string();
    assert!(environment.contains("CPU, burn engine"), "{environment}");
}

#[test]
fn the_bench_measures_the_gradients_of_all_weights() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.json");
    ran(&["bench", "inferena", "--runs", "1", "--json", file.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    let expected = ["forward", "one token", "training step", "loss"];
    assert_eq!(names[..4], expected.map(|name| format!("inferena {name}")));
    assert!(figures.iter().all(|figure| figure["median"].as_f64().unwrap() > 0.0), "{figures:?}");
}

#[test]
fn what_can_not_be_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapters");
    let refused = |arguments: &[&str], expected: &str| {
        let problem = error(engram(arguments).output().unwrap());
        assert!(problem.contains(expected), "{arguments:?}: {problem}");
    };
    let say = ["generate", "hi"];
    let with = |more: &[&'static str]| [more, &say].concat();
    refused(&with(&["--engine", "wgpu", "--device", "cpu"]), "add --engine burn");
    refused(&with(&["--engine", "auto", "--device", "cpu"]), "add --engine burn");
    refused(&with(&["--engine", "burn", "--quantize", "q8_0"]), "--quantize is for --engine wgpu");
    refused(&with(&["--engine", "burn", "--adapter", "0"]), "add --device wgpu");
    let settings = |options: &[&str], expected: &str| {
        let problem = error(train(&path, options).output().unwrap());
        assert!(problem.contains(expected), "{options:?}: {problem}");
        assert!(!path.exists());
    };
    settings(&["--adapter-type", "bottleneck", "--format", "mlx"], "leave out --format mlx");
    let bottleneck = ["--adapter-type", "bottleneck", "--num-layers", "1"];
    settings(&[&bottleneck[..], &["--scale", "2"]].concat(), "--scale is LoRA's");
    settings(&["--num-layers", "1", "--rank", "0"], "rank is 0");
    settings(&["--num-layers", "99"], "num-layers is 99, the model has 3");
    let kind = ["--engine", "wgpu", "train", "--adapter-type", "bottleneck", "--num-layers", "1"];
    let (data, folder) = (golden("tiny_mlx"), path.to_str().unwrap());
    let on_wgpu =
        [&kind[..], &["--data", data.to_str().unwrap(), "--adapter-path", folder]].concat();
    refused(&on_wgpu, "needs --engine burn");
}

#[test]
fn a_seed_draws_the_same_tokens_on_either_engine() {
    let options = ["--temperature", "1.2", "--top-k", "40", "--top-p", "0.9", "--seed", "3"];
    let text = |engine: &str, seed: &[&str]| {
        let generate = ["--engine", engine, "generate", "hi", "--max-new-tokens", "20"];
        stdout(engram(&[&generate, &options[..6], seed].concat()).output().unwrap())
    };
    let drawn = text("wgpu", &options[6..]);
    assert_eq!(text("burn", &options[6..]), drawn);
    assert_ne!(text("wgpu", &["--seed", "4"]), drawn);
}
