//! `engram eval`, run as a user runs it, on the tiny model of the goldens.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/goldens/tiny");

const TEST: &str = r#"{"messages": [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}], "category": "sums"}
{"messages": [{"role": "user", "content": "3*4="}, {"role": "assistant", "content": "12"}], "category": "sums"}
{"messages": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Paris"}], "category": "capitals"}
{"messages": [{"role": "user", "content": "Capital of Spain?"}, {"role": "assistant", "content": "Madrid"}], "category": "capitals"}
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    fn with(self, name: &str, content: &str) -> Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    fn eval(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_engram"));
        command
            .current_dir(self.0.path())
            .args(["--model", TINY, "--engine", "wgpu", "eval"])
            .args(arguments);
        command.output().unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
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
    assert!(output.stdout.is_empty());
    stderr.lines().last().unwrap().to_owned()
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("report.json")).unwrap()).unwrap()
}

#[test]
fn blends_are_compared_with_their_parts() {
    let folder = Folder::new().with("test.jsonl", TEST);
    let golden = |name: &str| format!("{TINY}_{name}");
    let (mlx, peft) = (golden("adapter_mlx"), golden("adapter_peft"));
    let [whole, parts] = [format!("{mlx}:1,{peft}:0"), format!("{mlx}:0.25,{mlx}:0.75")];
    let mut arguments = vec!["--data", "test.jsonl", "--max-new-tokens", "4", "--out", "report"];
    for path in [&mlx, &whole, &parts] {
        arguments.extend(["--adapter-path", path]);
    }
    stdout(&folder.eval(&arguments));
    let report = std::fs::read(folder.path("report/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let candidates = report["candidates"].as_array().unwrap();
    let name = |i: usize| candidates[i]["name"].as_str().unwrap();
    assert_eq!(name(2), "tiny_adapter_mlx:1+tiny_adapter_peft:0");
    assert_eq!(name(3), "tiny_adapter_mlx:0.25+tiny_adapter_mlx:0.75");
    let loss = |i: usize| candidates[i]["loss"]["mean"].as_f64().unwrap();
    assert!((loss(0) - loss(1)).abs() > 1e-2);
    assert!((loss(1) - loss(2)).abs() < 1e-3 && (loss(1) - loss(3)).abs() < 1e-3);
    let one = ["--data", "test.jsonl", "--adapter-path", "a:0.7,"];
    let problem = folder.eval(&one).stderr;
    assert!(String::from_utf8(problem).unwrap().contains("blends are written a:0.7,b:0.3"));
}

#[test]
fn a_report_is_written_and_summed_up() {
    let folder = Folder::new().with("data/test.jsonl", TEST).with("data/train.jsonl", TEST);
    let arguments = ["--data", "data", "--max-new-tokens", "6", "--out", "out/report"];
    let said = stdout(&folder.eval(&arguments));
    assert!(said.lines().next().unwrap().contains("95 % interval"), "{said}");
    assert!(said.contains("base  ") && said.contains(" of 4"), "{said}");

    assert_eq!(
        folder.names("out/report"),
        ["accuracy.png", "accuracy.svg", "report.json", "report.md"]
    );
    assert_eq!(folder.names("out"), ["report"]);
    let report = report(&folder.path("out/report"));
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["model"], "tiny");
    assert_eq!(report["protocol"], "honest");
    assert_eq!(report["max_new_tokens"], 6);
    assert_eq!(report["dataset"]["examples"], 4);
    assert_eq!(report["dataset"]["seen_in_training"], 4);
    assert_eq!(report["dataset"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(report["environment"]["target"], "native");
    let base = &report["candidates"][0];
    assert_eq!(base["name"], "base");
    assert_eq!(base["outputs"].as_array().unwrap().len(), 4);
    assert_eq!(base["per_category"][0]["category"], "capitals");
    assert!(base["loss"]["mean"].as_f64().unwrap() > 0.0);
    assert!(base["latency"]["mean_ms"].as_f64().unwrap() > 0.0);
    assert!(base["overall"]["wilson"]["high"].as_f64().unwrap() > 0.0);
}

#[test]
fn options_reach_the_harness() {
    let folder = Folder::new().with("some.jsonl", TEST);
    let arguments = ["--data", "some.jsonl", "--protocol", "original", "--limit", "2"];
    let rest = ["--runs", "2", "--no-loss", "--max-new-tokens", "3", "--out", "out"];
    stdout(&folder.eval(&[&arguments[..], &rest[..]].concat()));
    let report = report(&folder.path("out"));
    assert_eq!(report["protocol"], "original");
    assert_eq!(report["dataset"]["examples"], 2);
    assert!(report["dataset"]["seen_in_training"].is_null());
    let base = &report["candidates"][0];
    assert!(base.get("loss").is_none());
    assert_eq!(base["consistency"]["runs"], 2);
    assert_eq!(base["consistency"]["consistent"], 2, "greedy answers are always the same");
}

#[test]
fn adapters_are_compared_with_the_model() {
    let folder = Folder::new().with("test.jsonl", TEST);
    let path = |name: &str| format!("{TINY}_adapter_{name}");
    let (mlx, peft) = (path("mlx"), path("peft"));
    let adapters = ["--adapter-path", &mlx, "--adapter-path", &peft, "--name", "tuned"];
    let rest = ["--data", "test.jsonl", "--max-new-tokens", "8", "--out", "out"];
    let said = stdout(&folder.eval(&[&adapters[..], &rest[..]].concat()));
    assert!(said.contains("tuned: ") && said.contains("tiny_adapter_peft: "), "{said}");
    let report = report(&folder.path("out"));
    let [base, tuned, same] = report["candidates"].as_array().unwrap().as_slice() else {
        panic!("{report}")
    };
    // One adapter in two layouts.
    assert_eq!(tuned["outputs"], same["outputs"]);
    assert_ne!(tuned["outputs"], base["outputs"]);
    assert_ne!(tuned["loss"]["mean"], base["loss"]["mean"]);
    assert_eq!(report["comparisons"].as_array().unwrap().len(), 3);
}

#[test]
fn perplexity_takes_texts_and_answers() {
    let folder = Folder::new()
        .with("plain.txt", "A few words, and then some more of them.")
        .with("texts.jsonl", "{\"text\": \"A few words, and then some more of them.\"}\n")
        .with("test.jsonl", TEST);
    let row = |file: &str| {
        let said = stdout(&folder.eval(&["--perplexity", file]));
        said.lines().nth(1).unwrap().to_owned()
    };
    assert_eq!(row("plain.txt"), row("texts.jsonl"));
    assert!(row("plain.txt").starts_with("base "));
    assert_ne!(row("test.jsonl"), row("plain.txt"));
}

#[test]
fn what_cannot_be_evaluated_is_one_clear_line_and_leaves_nothing() {
    let broken =
        TEST.replacen("{\"messages\": [{\"role\": \"user\", \"content\": \"3", "{\"mess", 1);
    let folder = Folder::new()
        .with("empty.jsonl", "")
        .with("broken.jsonl", &broken)
        .with("text.jsonl", "{\"text\": \"no question\"}\n")
        .with("test.jsonl", TEST)
        .with("file", "");
    let before = folder.names(".");
    let problem = |arguments: &[&str]| {
        let all = [arguments, &["--out", "out"]].concat();
        error(&folder.eval(&all))
    };
    let cases: [(&[&str], &str); 9] = [
        (&["--data", "empty.jsonl"], "error: empty.jsonl: no records"),
        (&["--data", "broken.jsonl"], "error: broken.jsonl:2: not JSON"),
        (&["--data", "text.jsonl"], "error: text.jsonl:1: plain text"),
        (&["--data", "missing"], "error: missing: "),
        (&["--data", "test.jsonl", "--name", "a"], "1 names for 0 adapters"),
        (
            &["--data", "test.jsonl", "--adapter-path", "x/a", "--adapter-path", "y/a"],
            "two candidates are called a",
        ),
        (
            &["--data", "test.jsonl", "--adapter-path", "x", "--name", "base"],
            "two candidates are called base",
        ),
        (&["--data", "test.jsonl", "--adapter-path", "x"], "error: x: no such folder"),
        (&["--data", "test.jsonl", "--perplexity", "missing.txt"], "error: missing.txt: "),
    ];
    for (arguments, expected) in cases {
        let problem = problem(arguments);
        assert!(problem.contains(expected), "{problem}");
    }
    let file = error(&folder.eval(&["--data", "test.jsonl", "--out", "file"]));
    assert!(file.contains("file: not a folder"), "{file}");
    let zero = folder.eval(&["--data", "test.jsonl", "--limit", "0"]);
    assert_eq!(zero.status.code(), Some(2));
    assert_eq!(folder.names("."), before);
}
