//! Following, listing and comparing runs, as a user does it.

mod tiny;

use std::fs;
use std::path::Path;

use serde_json::Value;

use tiny::{engram, error, golden, stdout};

/// A short run into `folder` of `root`.
fn train(root: &Path, folder: &str, more: &[&str]) -> String {
    let data = golden("tiny_mlx");
    let own = ["train", "--data", data.to_str().unwrap(), "--adapter-path", folder];
    let small = ["--num-layers", "1", "--rank", "2", "--keys", "q_proj", "--batch-size", "2"];
    let short = ["--iters", "4", "--steps-per-report", "2", "--steps-per-eval", "2"];
    let mut command = engram(&[&own[..], &small, &short, more].concat());
    stdout(command.current_dir(root).output().unwrap())
}

fn in_folder(root: &Path, arguments: &[&str]) -> std::process::Output {
    engram(arguments).current_dir(root).output().unwrap()
}

/// The scalars of an event file: tag, step, value.
fn scalars(bytes: &[u8]) -> Vec<(String, u64, f32)> {
    fn varint(bytes: &[u8], at: &mut usize) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    /// Every field by its number; a number's bytes are its own.
    fn fields(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let (mut found, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let key = varint(bytes, &mut at);
            let length = match key & 7 {
                0 => {
                    let value = varint(bytes, &mut at);
                    found.push((key >> 3, value.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(bytes, &mut at) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, bytes[at..at + length].to_vec()));
            at += length;
        }
        found
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let event = fields(&bytes[at + 12..at + 12 + length]);
        at += 12 + length + 4;
        let of = |number: u64| event.iter().filter(move |(n, _)| *n == number).map(|(_, v)| v);
        let step = of(2).next().map_or(0, |b| u64::from_le_bytes(b[..].try_into().unwrap()));
        for value in of(5).flat_map(|summary| fields(summary)).map(|(_, value)| fields(&value)) {
            let tag = String::from_utf8(value[0].1.clone()).unwrap();
            found.push((tag, step, f32::from_le_bytes(value[1].1[..].try_into().unwrap())));
        }
    }
    found
}

fn event_files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let events = entries.filter(|e| e.file_name().to_str().unwrap().contains("tfevents"));
    events.map(|entry| fs::read(entry.path()).unwrap()).collect()
}

#[test]
fn runs_are_followed_listed_and_compared() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let none = error(in_folder(root, &["runs"]));
    assert!(none.contains("no runs found"), "{none}");
    let said = train(root, "runs/slow", &["--tensorboard"]);
    let fast = ["--learning-rate", "1e-2", "--optimizer", "adamw", "--tensorboard", "events"];
    train(root, "runs/more/fast", &fast);

    // TensorBoard has what the metrics have.
    let metrics = fs::read_to_string(root.join("runs/slow/metrics.jsonl")).unwrap();
    let metrics: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let files = event_files(&root.join("runs/slow"));
    let found = scalars(&files[0]);
    for (name, tag) in [
        ("train_loss", "train/loss"),
        ("learning_rate", "train/learning_rate"),
        ("gradient_norm", "train/gradient_norm"),
        ("tokens_per_second", "train/tokens_per_second"),
        ("val_loss", "val/loss"),
    ] {
        let expected: Vec<(String, u64, f32)> = metrics
            .iter()
            .filter_map(|line| Some((line["iteration"].as_u64()?, line[name].as_f64()?)))
            .map(|(step, value)| (tag.to_owned(), step, value as f32))
            .collect();
        let of_tag: Vec<_> = found.iter().filter(|(found, ..)| found == tag).cloned().collect();
        assert_eq!(of_tag, expected);
        assert!(expected.len() > 1, "{name}");
    }
    assert_eq!(event_files(&root.join("events")).len(), 1);
    assert!(event_files(&root.join("runs/more/fast")).is_empty());
    // In a pipe there is no plot.
    assert_eq!(said.lines().count(), 5, "{said}");

    // The page holds everything itself.
    let page = fs::read_to_string(root.join("runs/more/fast/report.html")).unwrap();
    for part in ["<svg", "training (last ", "learning_rate", "0.01", "sha256 ", "done, iteration 4"]
    {
        assert!(page.contains(part), "no {part}: {page}");
    }
    assert!(!page.contains("src=") && !page.contains("href=") && !page.contains("url("), "{page}");

    let listed = stdout(in_folder(root, &["runs"]));
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1].starts_with("runs/more/fast") && lines[2].starts_with("runs/slow"));
    assert!(lines[1].contains("done") && lines[1].contains("4 of 4") && lines[1].contains("lora"));
    let all: Value =
        serde_json::from_str(&stdout(in_folder(root, &["runs", "runs/slow", "--json"]))).unwrap();
    let last = metrics.iter().filter_map(|line| line["val_loss"].as_f64()).next_back();
    assert_eq!(all[0]["val_loss"]["last"].as_f64(), last);
    assert_eq!(all[0]["config"]["lora_parameters"]["rank"], 2);

    // A report beside the runs is found by the name of the adapter.
    let tests = "{\"prompt\": \"say cat\", \"completion\": \"cat\"}\n";
    fs::write(root.join("test.jsonl"), tests).unwrap();
    let eval = ["eval", "--data", "test.jsonl", "--adapter-path", "runs/slow"];
    let short = ["--out", "runs/report", "--max-new-tokens", "2", "--no-loss"];
    stdout(in_folder(root, &[&eval[..], &short].concat()));
    let compare = ["runs", "compare", "runs/slow", "runs/more/fast"];
    let compared = stdout(in_folder(root, &[&compare[..], &["--plot", "out/a.svg"]].concat()));
    let settings: Vec<&str> =
        compared.lines().skip(1).map(|l| l.split("  ").next().unwrap()).collect();
    assert_eq!(
        settings,
        [
            "learning_rate",
            "optimizer",
            "weight_decay",
            "training loss, first",
            "training loss, best",
            "training loss, last",
            "validation loss, first",
            "validation loss, best",
            "validation loss, last",
            "right answers",
            "seconds",
            "tokens/s",
        ],
        "{compared}"
    );
    assert!(compared.contains(" of 1  ") || compared.contains(" of 1 "), "{compared}");
    let svg = fs::read_to_string(root.join("out/a.svg")).unwrap();
    assert!(svg.contains("runs/slow, validation") && svg.contains("runs/more/fast, training"));
    stdout(in_folder(root, &[&compare[..], &["--plot", "a.png"]].concat()));
    assert!(fs::read(root.join("a.png")).unwrap().starts_with(b"\x89PNG"));
    let json = stdout(in_folder(root, &[&compare[..], &["--json"]].concat()));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["differing"]["optimizer"], serde_json::json!(["adam", "adamw"]));

    // What is no run, and damaged ones.
    let refused = |arguments: &[&str], expected: &str| {
        let problem = error(in_folder(root, arguments));
        assert!(problem.contains(expected), "{problem}");
    };
    refused(&["runs", "missing"], "missing: No such file");
    refused(&["runs", "compare", "runs/slow", "runs"], "runs: no run in it");
    refused(
        &["runs", "compare", "runs/slow", "runs/more/fast", "--plot", "a.gif"],
        "a.gif: a plot",
    );
    fs::write(root.join("runs/slow/run.json"), "{").unwrap();
    refused(&compare, "runs/slow/run.json: not the record of a run");
    fs::remove_file(root.join("runs/slow/run.json")).unwrap();
    fs::write(root.join("runs/slow/config.yaml"), "a: [").unwrap();
    refused(&compare, "runs/slow/config.yaml: ");
    fs::remove_file(root.join("runs/slow/config.yaml")).unwrap();
    // What an Engram before these files left has its losses still.
    let listed = stdout(in_folder(root, &["runs"]));
    let cells: Vec<&str> = listed.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(cells[..6], ["runs/slow", "-", "-", "-", "-", "-"], "{listed}");
    assert!(cells[6].parse::<f64>().is_ok(), "{listed}");
}

#[test]
fn damaged_runs_are_named_and_the_others_listed() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "runs/sound", &[]);
    for (folder, file, text) in
        [("a", "run.json", "{\n"), ("b", "metrics.jsonl", "{}\n{"), ("z", "run.json", "{}")]
    {
        fs::create_dir(root.join("runs").join(folder)).unwrap();
        fs::write(root.join("runs").join(folder).join(file), text).unwrap();
    }
    for arguments in [&["runs"][..], &["runs", "--json"]] {
        let output = in_folder(root, arguments);
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        let said: Vec<&str> = said.lines().filter(|line| line.starts_with("damaged: ")).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("damaged: runs/a/run.json: not the record"), "{said:?}");
        assert!(said[1].starts_with("damaged: runs/b/metrics.jsonl:2: not JSON"), "{said:?}");
        assert!(stdout(output).contains("runs/sound"));
    }
    let named = error(in_folder(root, &["runs", "compare", "runs/sound", "runs/b"]));
    assert!(named.contains("runs/b/metrics.jsonl:2: not JSON"), "{named}");
    fs::remove_dir_all(root.join("runs/sound")).unwrap();
    let none = in_folder(root, &["runs"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8(none.stderr).unwrap().contains("none of 3 runs can be read"));
}

#[test]
fn a_resumed_run_tells_tensorboard_where_it_goes_on() {
    let root = tempfile::tempdir().unwrap();
    train(root.path(), "a", &["--tensorboard"]);
    let more = ["train", "-c", "a/config.yaml", "--resume", "--iters", "6"];
    stdout(in_folder(root.path(), &more));
    let mut files = event_files(&root.path().join("a"));
    files.sort_by_key(|bytes| scalars(bytes).first().map(|(_, step, _)| *step));
    let steps = |bytes: &[u8]| -> Vec<u64> {
        let found = scalars(bytes).into_iter().filter(|(tag, ..)| tag == "train/loss");
        found.map(|(_, step, _)| step).collect()
    };
    assert_eq!([steps(&files[0]), steps(&files[1])], [vec![2, 4], vec![6]]);
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_that_gets_no_better_ends_early() {
    let root = tempfile::tempdir().unwrap();
    // Nothing is learned: no validation after the first is better.
    let still = ["--learning-rate", "0", "--iters", "40", "--early-stopping-patience", "2"];
    let data = golden("tiny_mlx");
    let own = ["train", "--data", data.to_str().unwrap(), "--adapter-path", "a"];
    let small = ["--num-layers", "1", "--rank", "2", "--keys", "q_proj", "--batch-size", "2"];
    let often = ["--steps-per-eval", "3", "--steps-per-report", "2"];
    let output = in_folder(root.path(), &[&own[..], &small, &often, &still].concat());
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    stdout(output);
    assert!(
        said.contains("stopped early after iteration 5: 2 validations since the lowest"),
        "{said}"
    );
    let at: Vec<u64> = metrics(&root.path().join("a"))
        .iter()
        .filter(|line| line.get("val_loss").is_some())
        .map(|line| line["iteration"].as_u64().unwrap())
        .collect();
    assert_eq!(at, [1, 3, 6]);
    let listed = stdout(in_folder(root.path(), &["runs", "a"]));
    assert!(listed.contains("done") && listed.contains("5 of 40"), "{listed}");
    assert!(root.path().join("a/adapters.safetensors").exists());
    // It has to be validated for that.
    let without = [&own[..], &small, &still, &["--val-batches", "0"]].concat();
    let problem = error(in_folder(root.path(), &without));
    assert!(
        problem.contains("--early-stopping-patience waits for the validation loss"),
        "{problem}"
    );
}

#[test]
fn questions_are_asked_during_a_training() {
    let root = tempfile::tempdir().unwrap();
    let questions = "{\"prompt\": \"say cat\", \"completion\": \"cat\"}\n".repeat(3);
    fs::write(root.path().join("test.jsonl"), questions).unwrap();
    let ask = ["--eval-data", "test.jsonl", "--eval-every", "3", "--eval-examples", "2"];
    let said = train(root.path(), "a", &[&ask[..], &["--tensorboard"]].concat());
    assert_eq!(said.matches(" of 2 answers right, ").count(), 2, "{said}");
    let asked: Vec<(u64, u64)> = metrics(&root.path().join("a"))
        .iter()
        .filter_map(|line| Some((line["iteration"].as_u64()?, line["eval_examples"].as_u64()?)))
        .collect();
    assert_eq!(asked, [(3, 2), (4, 2)]);
    let found = scalars(&event_files(&root.path().join("a"))[0]);
    assert_eq!(found.iter().filter(|(tag, ..)| tag == "eval/accuracy").count(), 2);
    // It changes nothing of the training.
    train(root.path(), "b", &[]);
    let losses = |folder: &str| -> Vec<Value> {
        let lines = metrics(&root.path().join(folder));
        let kept = lines.into_iter().filter(|line| line.get("eval_accuracy").is_none());
        kept.map(|line| serde_json::json!([line["train_loss"], line["val_loss"]])).collect()
    };
    assert_eq!(losses("a"), losses("b"));
    // And it stands in the settings.
    let config = fs::read_to_string(root.path().join("a/config.yaml")).unwrap();
    assert!(config.contains("eval_every: 3\n"), "{config}");
    stdout(in_folder(root.path(), &["train", "-c", "a/config.yaml", "--adapter-path", "c"]));
    assert_eq!(losses("a"), losses("c"));
    let data = golden("tiny_mlx");
    let alone =
        ["train", "--data", data.to_str().unwrap(), "--eval-every", "3", "--num-layers", "1"];
    let problem = error(in_folder(root.path(), &alone));
    assert!(problem.contains("say how to ask --eval-data"), "{problem}");
}
