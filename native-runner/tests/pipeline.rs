//! `engram pipeline` and `engram demo`, run as a user runs them, on the tiny model of the goldens.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/goldens/tiny");

fn engram(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engram"));
    command.current_dir(folder).args(["--model", TINY, "--engine", "wgpu"]).args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn error(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    stderr.lines().last().unwrap().to_owned()
}

fn report(folder: &Path, name: &str) -> Value {
    let path = folder.join("run").join(name).join("report.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_whole_experiment_and_its_steps_alone() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    let whole = engram(folder, &["pipeline", "--quick", "--out", "run"]);
    let said = stdout(&whole);
    assert!(String::from_utf8_lossy(&whole.stderr).contains("--full runs the whole experiment"));
    for expected in [
        "original protocol",
        "honest protocol",
        "adapter: ",
        "run/report-honest/report.md",
        "engram demo --model",
        "prompt: ",
        "expected: ",
        "base: ",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    let honest = report(folder, "report-honest");
    assert_eq!(honest["protocol"], "honest");
    assert_eq!(honest["dataset"]["seen_in_training"], 0, "held out");
    let original = report(folder, "report-original");
    assert_eq!(original["protocol"], "original");
    assert!(original["dataset"]["seen_in_training"].as_u64().unwrap() > 0);
    for report in [&honest, &original] {
        assert_eq!(report["candidates"][1]["name"], "adapter");
        assert_eq!(report["training"]["config"]["lora_parameters"]["rank"], 8);
        assert!(report["training"]["trainable_parameters"].as_u64().unwrap() > 0);
        assert!(report["training"]["curve"].as_array().unwrap().len() > 2);
        assert!(report["training"]["cost"]["seconds"].as_f64().unwrap() > 0.0);
    }
    // Training has changed something: losses are sums over many numbers.
    let loss = |candidate: usize| honest["candidates"][candidate]["loss"]["mean"].clone();
    assert_ne!(loss(0), loss(1));
    assert!(folder.join("run/report-honest/loss.svg").is_file());

    // Without data and training, the same evaluation; without evaluation, only answers.
    let again = ["--skip-data", "--skip-train", "--skip-demo"];
    stdout(&engram(folder, &[&["pipeline", "--quick", "--out", "run"], &again[..]].concat()));
    let second = report(folder, "report-honest");
    assert_eq!(second["candidates"][1]["outputs"], honest["candidates"][1]["outputs"]);
    let skips = ["--skip-data", "--skip-train", "--skip-eval"];
    let said =
        stdout(&engram(folder, &[&["pipeline", "--quick", "--out", "run"], &skips[..]].concat()));
    assert!(said.starts_with("prompt: ") && !said.contains("report:"), "{said}");

    let demo = ["demo", "--adapter-path", "run/adapter", "--name", "tuned"];
    let quick = ["--quick", "--max-new-tokens", "4"];
    let said = stdout(&engram(folder, &[&demo[..], &quick[..]].concat()));
    assert_eq!(said.matches("\ntuned: ").count(), 5);
    let problem = error(&engram(folder, &demo));
    assert!(problem.contains("no prompt on standard input"), "{problem}");
}

#[test]
fn a_skipped_step_must_have_been_done() {
    let root = tempfile::tempdir().unwrap();
    let problem = |arguments: &[&str]| {
        error(&engram(root.path(), &[&["pipeline", "--out", "run"], arguments].concat()))
    };
    assert!(problem(&["--skip-data"]).ends_with("leave out --skip-data"));
    assert!(problem(&["--skip-train"]).ends_with("leave out --skip-train"));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    let both = engram(root.path(), &["pipeline", "--quick", "--full"]);
    assert_eq!(both.status.code(), Some(2));
    let missing = error(&engram(root.path(), &["demo", "--adapter-path", "no", "--quick"]));
    assert!(missing.contains("no: no such folder"), "{missing}");
}
