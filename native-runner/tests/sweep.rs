//! `engram sweep`, `engram eval --shard` and `engram merge`, as a user runs them.

mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use tiny::{engram, error, golden, stdout};

/// A folder with a sweep of four short runs.
fn folder() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let (model, data) = (golden("tiny"), golden("tiny_mlx"));
    let run = format!(
        "model: {}\nengine: wgpu\ndata: {}\nnum_layers: 1\nbatch_size: 2\niters: 4\n\
         steps_per_report: 2\nsteps_per_eval: 2\nsave_every: 1\nlora_parameters:\n  rank: 2\n  \
         keys: [q_proj]\n",
        model.display(),
        data.display()
    );
    fs::write(root.path().join("run.yaml"), run).unwrap();
    let sweep = "config: run.yaml\nparameters:\n  learning_rate: [1e-3, 1e-2]\n  \
                 lora_parameters.rank: {values: [1, 2]}\n";
    fs::write(root.path().join("sweep.yaml"), sweep).unwrap();
    root
}

fn ran(root: &Path, arguments: &[&str]) -> Output {
    engram(arguments).current_dir(root).output().unwrap()
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A sweep's results without what depends on the clock.
fn results(path: PathBuf) -> Value {
    let mut results = json(path);
    for run in results["runs"].as_array_mut().unwrap() {
        run.as_object_mut().unwrap().remove("seconds");
    }
    results
}

const NAMES: [&str; 4] = [
    "learning_rate=0.001,rank=1",
    "learning_rate=0.001,rank=2",
    "learning_rate=0.01,rank=1",
    "learning_rate=0.01,rank=2",
];

#[test]
fn two_processes_do_what_one_does() {
    let root = folder();
    let listed = stdout(ran(root.path(), &["sweep", "sweep.yaml", "--dry-run"]));
    assert_eq!(listed.matches("begins").count(), 4, "{listed}");
    assert!(!root.path().join("sweeps").exists());
    let table = stdout(ran(root.path(), &["sweep", "sweep.yaml", "--out", "whole"]));
    // The best first, after what the runs themselves said.
    let lines: Vec<&str> = table.lines().rev().take(5).collect();
    assert!(lines[4].starts_with("run "), "{table}");
    assert!(lines[3].starts_with("learning_rate=0.01,"), "{table}");
    let whole = results(root.path().join("whole/sweep.json"));
    let names: Vec<&str> =
        whole["runs"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, NAMES);
    assert!(whole["runs"].as_array().unwrap().iter().all(|run| run["status"] == "done"));
    let config = fs::read_to_string(root.path().join("whole").join(NAMES[2]).join("config.yaml"));
    let config = config.unwrap();
    assert!(config.contains("learning_rate: 0.01\n") && config.contains("rank: 1\n"), "{config}");

    // As the documentation has it.
    let docs = include_str!("../../docs/clusters.md");
    let script = docs.split("```sh\n# sweep in two processes\n").nth(1).unwrap();
    let script = script.split("```").next().unwrap();
    let program = engram(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.args([
        "-c",
        &format!("engram() {{ {} \"$@\"; }}\n{script}", env!("CARGO_BIN_EXE_engram")),
    ]);
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = stdout(shell.current_dir(root.path()).output().unwrap());
    assert!(said.contains("learning_rate=0.01,rank=2"), "{said}");
    let first = root.path().join("sweeps/first");
    assert_eq!(results(first.join("sweep-1-of-2.json"))["runs"].as_array().unwrap().len(), 2);
    assert_eq!(results(first.join("sweep.json")), whole);

    // Once more there is nothing to do.
    let before = json(first.join(NAMES[0]).join("run.json"));
    let again = ["sweep", "sweep.yaml", "--out", "sweeps/first"];
    stdout(ran(root.path(), &again));
    assert_eq!(json(first.join(NAMES[0]).join("run.json")), before);
    assert_eq!(results(first.join("sweep.json")), whole);
    // More iterations go on from where the runs ended; other settings are another sweep's.
    let run = fs::read_to_string(root.path().join("run.yaml")).unwrap();
    fs::write(root.path().join("run.yaml"), run.replace("iters: 4", "iters: 6")).unwrap();
    let listed = stdout(ran(root.path(), &[&again[..], &["--dry-run"]].concat()));
    assert_eq!(listed.matches("goes on").count(), 4, "{listed}");
    fs::write(root.path().join("run.yaml"), run.replace("batch_size: 2", "batch_size: 1")).unwrap();
    let other = error(ran(root.path(), &again));
    assert!(other.contains("rank=1: holds another run, whose batch_size is 2, here 1"), "{other}");

    // What can't be joined.
    let merged = |parts: &[&str]| ran(root.path(), &[&["merge", "--out", "m"], parts].concat());
    let half = merged(&["sweeps/first/sweep-1-of-2.json"]);
    assert_eq!(half.status.code(), Some(2));
    let half = String::from_utf8(half.stderr).unwrap();
    assert!(half.contains("2 of the sweep's 4 runs are there"), "{half}");
    let problem = error(merged(&["run.yaml"]));
    assert!(problem.contains("run.yaml: not the results of a sweep"), "{problem}");
    let changed = fs::read_to_string(root.path().join("whole/sweep.json")).unwrap();
    fs::write(root.path().join("x.json"), changed.replace("\"done\"", "\"failed\"")).unwrap();
    let problem = error(merged(&["sweeps/first/sweep.json", "x.json"]));
    assert!(problem.contains("x.json: run learning_rate=0.001,rank=1 differs"), "{problem}");
}

#[test]
fn an_interrupted_sweep_goes_on() {
    let root = folder();
    let long = fs::read_to_string(root.path().join("run.yaml")).unwrap();
    fs::write(root.path().join("run.yaml"), long.replace("iters: 4", "iters: 40")).unwrap();
    let one = "config: run.yaml\nparameters: {learning_rate: [1e-3, 1e-2]}\n";
    fs::write(root.path().join("sweep.yaml"), one).unwrap();
    stdout(ran(root.path(), &["sweep", "sweep.yaml", "--out", "whole"]));
    let arguments = ["sweep", "sweep.yaml", "--out", "killed"];
    let mut child = engram(&arguments)
        .current_dir(root.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // In the midst of the second run, past a checkpoint.
    let metrics = root.path().join("killed/learning_rate=0.01/metrics.jsonl");
    let began = Instant::now();
    while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 6 {
        assert!(began.elapsed() < Duration::from_secs(120), "no metrics");
        std::thread::sleep(Duration::from_millis(2));
    }
    // As Ctrl-C does it.
    let id = child.id().to_string();
    let killed = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let table = results(root.path().join("killed/sweep.json"));
    let status = |run: usize| table["runs"][run]["status"].as_str().unwrap().to_owned();
    assert_eq!([status(0), status(1)], ["done", "interrupted"]);
    let listed = stdout(ran(root.path(), &[&arguments[..], &["--dry-run"]].concat()));
    assert!(listed.contains("is done") && listed.contains("goes on"), "{listed}");
    stdout(ran(root.path(), &arguments));
    let [whole, killed] =
        ["whole", "killed"].map(|f| results(root.path().join(f).join("sweep.json")));
    assert_eq!(whole, killed);
    let sessions = |name: &str| {
        let run = json(root.path().join("killed").join(name).join("run.json"));
        run["sessions"].as_array().unwrap().len()
    };
    assert_eq!([sessions("learning_rate=0.001"), sessions("learning_rate=0.01")], [1, 2]);
}

#[test]
fn epochs_that_are_done_are_not_done_again() {
    let root = folder();
    let sweep = |epochs: usize, more: &str| {
        let text = format!(
            "config: run.yaml\nbase: {{epochs: {epochs}{more}}}\nparameters: {{seed: [1]}}\n"
        );
        fs::write(root.path().join("sweep.yaml"), text).unwrap();
        stdout(ran(root.path(), &["sweep", "sweep.yaml", "--out", "s"]));
        let run = json(root.path().join("s/seed=1/run.json"));
        let sessions = run["sessions"].as_array().unwrap();
        let iterations = sessions.last().unwrap()["to_iteration"].as_u64().unwrap();
        (sessions.len(), iterations, run["test"]["loss"].is_f64())
    };
    let (_, one, _) = sweep(1, "");
    assert_eq!(sweep(1, ""), (1, one, false));
    assert_eq!(sweep(2, ""), (2, 2 * one, false));
    assert_eq!(sweep(2, ""), (2, 2 * one, false));
    // A test that was not made yet is all that is left to do.
    let valid = golden("tiny_mlx").join("valid.jsonl");
    let test = format!(", test: true, test_data: {}", valid.display());
    assert_eq!(sweep(2, &test), (3, 2 * one, true));
    assert_eq!(sweep(2, &test), (3, 2 * one, true));
}

#[test]
fn a_run_that_fails_leaves_the_others() {
    let root = folder();
    let sweep =
        "base: {val_batches: 0}\nconfig: run.yaml\nparameters: {learning_rate: [1e30, 1e-3]}\n";
    fs::write(root.path().join("sweep.yaml"), sweep).unwrap();
    let output = ran(root.path(), &["sweep", "sweep.yaml", "--out", "s"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("error: 1 of 2 runs failed; the first, learning_rate=1e30: iteration "),
        "{said}"
    );
    let results = results(root.path().join("s/sweep.json"));
    let status: Vec<&Value> =
        results["runs"].as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(status, ["failed", "done"]);
    let failed = json(root.path().join("s/learning_rate=1e30/run.json"));
    assert!(failed["sessions"][0]["error"].as_str().unwrap().contains("not finite"), "{failed}");
}

#[test]
fn a_bad_sweep_is_one_line_before_anything_is_run() {
    let root = folder();
    let path = root.path().join("sweep.yaml");
    for (text, expected) in [
        (
            "parameters: {learning_rte: [1]}\n",
            "learning_rte=1: sweep.yaml:1: no key `learning_rte`; the nearest",
        ),
        (
            "parameters: {rank: [1]}\n",
            "sweep.yaml:1: no key `rank`; it is written `lora_parameters.rank`",
        ),
        ("parameters: {seed: [1]}\nbase:\n  iters: 0\n", "sweep.yaml:3: `iters`: iters is 0"),
        ("parameters: {iters: [3, x]}\n", "sweep.yaml:1: `iters`: invalid value 'x'"),
        ("parameters: {metrics: [x]}\n", "metrics"),
        ("seed: [1]\n", "sweep.yaml:1: no key `seed`; there are config, base"),
    ] {
        fs::write(&path, text).unwrap();
        let problem = error(ran(root.path(), &["sweep", "sweep.yaml"]));
        assert!(problem.contains(expected), "{problem}");
        assert!(!root.path().join("sweeps").exists());
    }
    let missing = error(ran(root.path(), &["sweep", "missing.yaml"]));
    assert!(missing.contains("missing.yaml: No such file"), "{missing}");
    let shard = ran(root.path(), &["sweep", "sweep.yaml", "--shard", "3/2"]);
    let shard = String::from_utf8(shard.stderr).unwrap();
    assert!(shard.contains("not of the form 2/8"), "{shard}");
}

#[test]
fn an_evaluation_in_two_processes_is_the_whole_one() {
    let root = tempfile::tempdir().unwrap();
    let lines: String = ["cat", "dog", "fox", "owl", "hen"]
        .map(|animal| format!("{{\"prompt\": \"say {animal}\", \"completion\": \"{animal}\"}}\n"))
        .concat();
    fs::write(root.path().join("test.jsonl"), lines).unwrap();
    let adapter = golden("tiny_adapter_mlx");
    let own = ["eval", "--data", "test.jsonl", "--adapter-path", adapter.to_str().unwrap()];
    let short = ["--max-new-tokens", "4", "--runs", "2"];
    let to = |more: &[&str]| {
        let mut command = engram(&[&own[..], &short, more].concat());
        command.current_dir(root.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let all = [
        to(&["--out", "whole"]),
        to(&["--shard", "1/2", "--out", "parts/1"]),
        to(&["--shard", "2/2", "--out", "parts/2"]),
    ];
    for mut child in all {
        assert!(child.wait().unwrap().success());
    }
    let said = stdout(ran(root.path(), &["merge", "parts/2", "parts/1", "--out", "merged"]));
    assert!(said.contains("report: merged/report.md") && said.contains(" of 5 "), "{said}");
    let report = |folder: &str| {
        let mut report = json(root.path().join(folder).join("report.json"));
        for candidate in report["candidates"].as_array_mut().unwrap() {
            let candidate = candidate.as_object_mut().unwrap();
            assert_eq!(candidate.remove("latency").unwrap()["n"].as_u64(), Some(10));
        }
        report
    };
    assert_eq!(report("merged"), report("whole"));
    for file in ["report.md", "accuracy.svg"] {
        assert!(root.path().join("merged").join(file).is_file());
    }

    let refused = |arguments: &[&str], expected: &str| {
        let problem = error(ran(root.path(), arguments));
        assert!(problem.contains(expected), "{problem}");
    };
    refused(&["merge", "parts/1", "--out", "x"], "shard 2 of 2 is missing");
    refused(&["merge", "whole", "--out", "x"], "the report of a whole evaluation");
    refused(&["merge", "parts/1", "none.json", "--out", "x"], "give one kind");
    refused(
        &[&own[..], &["--shard", "6/6", "--out", "x"]].concat(),
        "the test set has 5 questions",
    );
    assert!(!root.path().join("x").exists());
}
