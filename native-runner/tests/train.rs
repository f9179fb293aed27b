//! `engram train`, run as a user runs it, on the tiny model and data of the goldens.

mod tiny;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use tiny::{engram, error, golden, stdout};

/// Small enough that an iteration takes some milliseconds.
const SMALL: &[&str] =
    &["--num-layers", "1", "--rank", "2", "--keys", "q_proj,down_proj", "--batch-size", "1"];

#[test]
fn full_fine_tuning_leaves_weights_that_every_command_takes() {
    let folder = tempfile::tempdir().unwrap();
    let full = &["--fine-tune-type", "full", "--num-layers", "1", "--batch-size", "1"][..];
    let short = &["--iters", "3", "--steps-per-report", "1", "--val-batches", "0"][..];
    let rate = &["--learning-rate", "1e-2", "--modules-to-save", "norm,embed_tokens"][..];
    ran(folder.path(), &[full, short, rate]);
    let config = fs::read(folder.path().join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((&config["fine_tune_type"], &config["num_layers"]), (&json!("full"), &json!(1)));
    let losses = losses(folder.path(), "train_loss");
    assert!(losses[2] < losses[0], "{losses:?}");

    let prompt = &["generate", "cat", "--max-new-tokens", "8", "--temperature", "0"][..];
    let said = |more: &[&str]| stdout(engram(&[prompt, more].concat()).output().unwrap());
    let with = ["--adapter-path", folder.path().to_str().unwrap()];
    assert_ne!(said(&[]), said(&with));

    // It goes on from there, and as an adapter of the same modules.
    let more = tempfile::tempdir().unwrap();
    let from = &["--init-adapter", folder.path().to_str().unwrap()][..];
    ran(more.path(), &[short, &["--num-layers", "1", "--batch-size", "1"], from]);
    let refused = error(train(more.path(), &[full, &["--rank", "3"]]).output().unwrap());
    assert!(refused.contains("--rank is an adapter's"), "{refused}");
    let unknown = &["--num-layers", "1", "--modules-to-save", "lm_hat"][..];
    let refused = error(train(more.path(), &[short, unknown]).output().unwrap());
    assert!(refused.contains("no module `lm_hat`"), "{refused}");
}

#[test]
fn the_loss_on_a_test_set_is_measured_after_a_training_and_without_one() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    fs::create_dir(&data).unwrap();
    for (from, to) in [("train", "train"), ("valid", "valid"), ("valid", "test")] {
        let from = golden("tiny_mlx").join(from).with_extension("jsonl");
        fs::copy(from, data.join(to).with_extension("jsonl")).unwrap();
    }
    let run = |name: &str, more: &[&str]| {
        let own = ["--data", data.to_str().unwrap(), "--num-layers", "1", "--batch-size", "2"];
        train(&root.path().join(name), &[&own, more]).output().unwrap()
    };
    let record = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(root.path().join(name).join("run.json")).unwrap()).unwrap()
    };
    for semantics in ["engram", "mlx"] {
        let rules = ["--semantics", semantics, "--test-batches", "-1", "--test"];
        // Steps of nothing: the test set is the validation set, so are the losses.
        let still = ["--iters", "1", "--learning-rate", "1e-30"];
        stdout(run("still", &[&rules[..], &still].concat()));
        let folder = root.path().join("still");
        let (valid, test) = (losses(&folder, "val_loss"), losses(&folder, "test_loss"));
        assert!((valid[0] - test[0]).abs() < 1e-5, "{valid:?} {test:?}");

        let moved = ["--iters", "20", "--learning-rate", "1e-2", "--val-batches", "0"];
        let said = stdout(run("moved", &[&rules[..], &moved].concat()));
        let folder = root.path().join("moved");
        let loss = losses(&folder, "test_loss")[0];
        assert!((loss - test[0]).abs() > 1e-2, "{loss} {test:?}");
        let line = format!("Test loss {loss:.3}, Test ppl {:.3}.", loss.exp());
        assert_eq!(said.lines().last(), Some(&*line), "{said}");
        let before = record("moved");
        assert_eq!(before["test"]["loss"].as_f64(), Some(loss));
        let file = before["test"]["data"]["files"][0]["path"].as_str().unwrap();
        assert!(file.ends_with("test.jsonl"), "{file}");

        // Of the adapter that is there; the run is as it was.
        let said = stdout(run("moved", &[&rules[..], &["--train", "false"]].concat()));
        assert!(said.starts_with("Test loss ") && said.lines().count() == 1, "{said}");
        let after = record("moved");
        assert_eq!(after["sessions"], before["sessions"]);
        let again = after["test"]["loss"].as_f64().unwrap();
        assert!((again - loss).abs() < 1e-5, "{again} {loss}");
        assert_eq!(losses(&folder, "test_loss").len(), 2);
        let page = fs::read_to_string(folder.join("report.html")).unwrap();
        assert!(page.contains(&format!("test loss {loss:.4}")), "{page}");
        let some = ["--train=false", "--test", "--test-batches", "1", "--semantics", semantics];
        let part = stdout(run("moved", &some));
        assert_ne!(part.split(',').next(), said.split(',').next());
    }
    let refused = |more: &[&str], expected: &str| {
        let problem = error(run("moved", more));
        assert!(problem.contains(expected), "{problem}");
    };
    refused(&["--train", "false"], "leaves nothing to do; add --test");
    refused(&["--test-data", "x"], "--test-data is what --test measures");
    refused(&["--train", "false", "--test", "--resume"], "begin a training");
    fs::remove_file(data.join("test.jsonl")).unwrap();
    refused(&["--test"], "no test set in it; name one by --test-data");
    let train = data.join("train.jsonl");
    let named = ["--test", "--train", "false", "--test-data", train.to_str().unwrap()];
    assert!(stdout(run("moved", &named)).starts_with("Test loss "));
}

const CHECKPOINT: &str = "checkpoint.safetensors";

/// What a run leaves besides the adapter and its checkpoint.
const OF_A_RUN: [&str; 4] = ["config.yaml", "metrics.jsonl", "report.html", "run.json"];

/// `engram train` on the data of the goldens unless `options` name others.
fn train(folder: &Path, options: &[&[&str]]) -> std::process::Command {
    let (data, folder) = (golden("tiny_mlx"), folder.to_str().unwrap());
    let options = options.concat();
    let mut arguments = vec!["train", "--adapter-path", folder];
    if !options.contains(&"--data") {
        arguments.extend(["--data", data.to_str().unwrap()]);
    }
    arguments.extend(options);
    engram(&arguments)
}

fn ran(folder: &Path, options: &[&[&str]]) -> String {
    stdout(train(folder, options).output().unwrap())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The metrics that do not depend on the clock.
fn numbers(folder: &Path) -> Vec<Value> {
    let mut lines = metrics(folder);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for clocked in ["seconds", "iterations_per_second", "tokens_per_second"] {
            line.remove(clocked);
        }
    }
    lines
}

fn losses(folder: &Path, key: &str) -> Vec<f64> {
    metrics(folder).iter().filter_map(|line| line[key].as_f64()).collect()
}

fn assert_same_file(a: &Path, b: &Path, name: &str) {
    assert!(fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap(), "{name} differs");
}

/// A folder with `train.jsonl` of this content.
fn data(train: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train.jsonl"), train).unwrap();
    folder
}

/// Starts a run and waits until its metrics have `lines` lines, and more than before.
fn started(folder: &Path, options: &[&[&str]], lines: usize) -> Child {
    let path = folder.join("metrics.jsonl");
    let count = || fs::read_to_string(&path).unwrap_or_default().lines().count();
    let lines = lines.max(count() + 1);
    let mut command = train(folder, options);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while count() < lines {
        assert!(began.elapsed() < Duration::from_secs(120), "no metrics");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn losses_fall_and_the_adapter_is_written_in_either_layout() {
    let root = tempfile::tempdir().unwrap();
    let options = ["--iters", "30", "--learning-rate", "1e-2", "--steps-per-report", "5"];
    let every = ["--steps-per-eval", "10", "--num-layers", "-1", "--batch-size", "2"];
    let mut answers = Vec::new();
    for (format, weights) in
        [("mlx", "adapters.safetensors"), ("peft", "adapter_model.safetensors")]
    {
        let folder = root.path().join(format);
        let said = ran(&folder, &[&options, &every, &["--format", format]]);
        assert!(said.starts_with("iteration 1: validation loss "), "{said}");
        assert_eq!(said.lines().count(), 4 + 6, "{said}");
        let adapter = ["adapter_config.json", weights];
        let mut expected = [&adapter[..], &["best", CHECKPOINT], &OF_A_RUN].concat();
        expected.sort_unstable();
        assert_eq!(names(&folder), expected);
        let mut expected = adapter;
        expected.sort_unstable();
        assert_eq!(names(&folder.join("best")), expected);

        let at = |key: &str| -> Vec<u64> {
            let lines = metrics(&folder);
            let with = lines.iter().filter(|line| line.get(key).is_some());
            with.map(|line| line["iteration"].as_u64().unwrap()).collect()
        };
        assert_eq!(at("val_loss"), [1, 10, 20, 30]);
        assert_eq!(at("train_loss"), [5, 10, 15, 20, 25, 30]);
        for key in ["train_loss", "val_loss"] {
            let losses = losses(&folder, key);
            assert!(losses.last() < losses.first(), "{key}: {losses:?}");
        }

        let generate = ["generate", "say cat", "--max-new-tokens", "8"];
        let adapter = ["--adapter-path", folder.to_str().unwrap()];
        let answer =
            |more: &[&str]| stdout(engram(&[&generate[..], more].concat()).output().unwrap());
        assert_ne!(answer(&adapter), answer(&[]), "the adapter changes nothing");
        answers.push(answer(&adapter));
    }
    // The layouts hold the same adapter.
    assert_eq!(answers[0], answers[1]);
    assert_eq!(numbers(&root.path().join("mlx")), numbers(&root.path().join("peft")));
}

/// Settings, files and a run that goes on know of each layer's rank.
#[test]
fn ranks_that_differ_are_written_as_pefts_and_resumed() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("ranks");
    let settings = root.path().join("run.yaml");
    let yaml = "num_layers: -1\nbatch_size: 2\niters: 4\nsteps_per_report: 1\nval_batches: 0\n\
                lora_parameters:\n  keys: [q_proj, mlp.up_proj]\n  rank: 4\n  scale: 2\n  \
                rank_pattern: {'layers\\.[12]\\..*q_proj': 6}\n  alpha_pattern: {up_proj: 2}\n";
    fs::write(&settings, yaml).unwrap();
    let config = ["--config", settings.to_str().unwrap()];
    ran(&folder, &[&config]);
    let json = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let adapter = json("adapter_config.json");
    let q = |layer: usize| format!("model.layers.{layer}.self_attn.q_proj");
    assert_eq!((&adapter["r"], &adapter["lora_alpha"]), (&json!(4), &json!(8)));
    assert_eq!(adapter["rank_pattern"], json!({q(1): 6, q(2): 6}));
    let up = |layer: usize| format!("model.layers.{layer}.mlp.up_proj");
    assert_eq!(adapter["alpha_pattern"], json!({up(0): 2, up(1): 2, up(2): 2}));
    let repeated = fs::read_to_string(folder.join("config.yaml")).unwrap();
    assert!(repeated.contains("rank_pattern:") && repeated.contains("up_proj: 2"), "{repeated}");

    let four = losses(&folder, "train_loss");
    ran(&folder, &[&["--resume", "--iters", "6", "--batch-size", "2"]]);
    assert_eq!(losses(&folder, "train_loss").len(), 6);
    assert_eq!(losses(&folder, "train_loss")[..4], four);
    // It is what another run can begin with, with the same patterns.
    let init = ["--init-adapter", folder.to_str().unwrap()];
    ran(&root.path().join("more"), &[&config, &init]);
    let other = root.path().join("other");
    let problem =
        error(train(&other, &[&init, &["--rank", "4", "--scale", "2"]]).output().unwrap());
    assert!(
        problem.contains("--rank-pattern and --alpha-pattern where layers differ"),
        "{problem}"
    );
    let mlx = error(train(&other, &[&config, &["--format", "mlx"]]).output().unwrap());
    assert!(mlx.contains("leave out --format mlx, or the patterns"), "{mlx}");
    let none = error(train(&other, &[&config, &["--rank-pattern", "v_proj=2"]]).output().unwrap());
    assert!(none.contains("`v_proj` matches none of the adapted linear layers"), "{none}");
}

#[test]
fn a_killed_run_resumes_with_the_same_numbers() {
    let common: &[&str] = &[
        "--learning-rate",
        "1e-2",
        "--iters",
        "30",
        "--steps-per-report",
        "2",
        "--steps-per-eval",
        "5",
    ];
    let variants: [&[&str]; 3] = [
        &["--save-every", "1"],
        &["--save-every", "5", "--grad-accumulation-steps", "3", "--max-grad-norm", "1"],
        &["--save-every", "1", "--semantics", "mlx", "--grad-accumulation-steps", "3"],
    ];
    let root = tempfile::tempdir().unwrap();
    for (i, variant) in variants.into_iter().enumerate() {
        let folder = |name: &str| root.path().join(format!("{name}{i}"));
        let (whole, killed) = (folder("whole"), folder("killed"));
        let options: &[&[&str]] = &[SMALL, common, variant];
        ran(&whole, options);

        // Iterations 1, 2, 4, 5, 6, 8: past the first checkpoint, before the end.
        let mut child = started(&killed, options, 6);
        child.kill().unwrap();
        child.wait().unwrap();
        let before = metrics(&killed).len();
        assert!(before < metrics(&whole).len(), "it was done already");
        assert!(!killed.join("adapters.safetensors").exists());
        // What a kill in the middle of a line leaves.
        let path = killed.join("metrics.jsonl");
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"iter").unwrap();

        // The checkpoint knows the settings.
        ran(&killed, &[&["--resume"]]);
        assert_eq!(numbers(&killed), numbers(&whole), "{variant:?}");
        for name in ["adapters.safetensors", CHECKPOINT, "best/adapters.safetensors"] {
            assert_same_file(&killed, &whole, name);
        }
    }
}

#[test]
fn ctrl_c_leaves_a_checkpoint_to_resume() {
    let root = tempfile::tempdir().unwrap();
    // Before every iteration a validation, in which the interruption is likely to fall; MLX's
    // draws its order from the generator of the training order.
    let options: &[&[&str]] = &[
        SMALL,
        &["--learning-rate", "1e-2", "--iters", "24", "--semantics", "mlx"],
        &["--steps-per-report", "3", "--steps-per-eval", "1"],
    ];
    let (whole, stopped) = (root.path().join("whole"), root.path().join("stopped"));
    ran(&whole, options);
    let expected = numbers(&whole);
    for lines in [1, 6, 11] {
        let mut child = match lines {
            1 => started(&stopped, options, lines),
            _ => started(&stopped, &[&["--resume"]], lines),
        };
        let pid = child.id().to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(sent.success());
        let code = child.wait().unwrap().code();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(code, Some(130), "{said}");
        assert!(said.ends_with("; --resume goes on from there\n"), "{said}");
        assert!(!said.contains("error"), "{said}");
        assert!(!names(&stopped).iter().any(|name| name.starts_with("adapter")));
        assert!(stopped.join(CHECKPOINT).exists());
        let lines = numbers(&stopped);
        assert_eq!(lines, expected[..lines.len()]);
    }
    ran(&stopped, &[&["--resume"]]);
    assert_eq!(numbers(&stopped), expected);
    for name in ["adapters.safetensors", CHECKPOINT] {
        assert_same_file(&stopped, &whole, name);
    }
}

/// Whether every number of a checkpoint is finite; its tensors are all F32.
fn is_finite(path: &Path) -> bool {
    let bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let numbers = bytes[8 + header..].chunks_exact(4);
    assert!(numbers.len() > 100);
    numbers.map(|b| f32::from_le_bytes(b.try_into().unwrap())).all(f32::is_finite)
}

#[test]
fn a_number_that_is_not_finite_ends_the_run_and_is_not_saved() {
    let root = tempfile::tempdir().unwrap();
    for (i, options) in [
        &["--learning-rate", "1e38"][..],
        &["--learning-rate", "1e38", "--grad-accumulation-steps", "3"],
        &["--scale", "1e30"],
    ]
    .into_iter()
    .enumerate()
    {
        let folder = root.path().join(i.to_string());
        let settings = ["--iters", "8", "--steps-per-report", "2", "--val-batches", "0"];
        let output = train(&folder, &[SMALL, &settings, options]).output().unwrap();
        let problem = one_error(&output);
        let culprits = ["the training loss", "the gradient of model.layers.2."];
        assert!(problem.starts_with("error: iteration "), "{problem}");
        assert!(culprits.iter().any(|culprit| problem.contains(culprit)), "{problem}");
        assert!(problem.contains("is not finite; lower the learning rate"), "{problem}");
        assert_eq!(names(&folder), [&[CHECKPOINT], &OF_A_RUN[..]].concat());
        assert!(is_finite(&folder.join(CHECKPOINT)));
        // It can be read again, whatever comes of it.
        let again = train(&folder, &[&["--resume"]]).output().unwrap();
        let said = String::from_utf8(again.stderr).unwrap();
        assert!(said.contains("training 576 parameters, iterations "), "{said}");
    }
    // A checkpoint between reports does not hide it.
    let folder = root.path().join("between");
    let settings = ["--learning-rate", "1e38", "--iters", "8", "--save-every", "1"];
    let output = train(&folder, &[SMALL, &settings, &["--val-batches", "0"]]).output().unwrap();
    let problem = one_error(&output);
    assert!(problem.starts_with("error: iteration "), "{problem}");
    assert!(problem.contains(" is not finite; lower the learning rate"), "{problem}");
    assert!(is_finite(&folder.join(CHECKPOINT)));
    // Where Adam itself leaves the range of numbers, an older checkpoint stays.
    let folder = root.path().join("older");
    ran(&folder, &[SMALL, &["--iters", "1", "--learning-rate", "3.4e38"]]);
    let older = fs::read(folder.join(CHECKPOINT)).unwrap();
    let problem = one_error(&train(&folder, &[&["--resume", "--iters", "4"]]).output().unwrap());
    assert!(problem.contains("not finite"), "{problem}");
    assert_eq!(fs::read(folder.join(CHECKPOINT)).unwrap(), older);
}

/// The one line of an error that came after some results.
#[track_caller]
fn one_error(output: &Output) -> String {
    error(Output { stdout: Vec::new(), ..output.clone() })
}

#[test]
fn bad_settings_and_data_are_one_clear_line() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("adapters");
    let refused = |options: &[&str], expected: &str| {
        let problem = error(train(&folder, &[options]).output().unwrap());
        assert!(problem.contains(expected), "{options:?}: {problem}");
        assert!(names(root.path()).is_empty(), "{options:?} left something");
    };
    refused(&["--rank", "0"], "rank is 0; it is at least 1");
    refused(&["--rank", "65", "--num-layers", "1"], "the rank is 65");
    refused(&["--iters", "0"], "iters is 0; it is at least 1");
    refused(&["--scale", "nan"], "scale is NaN");
    refused(&["--num-layers", "99"], "num-layers is 99, the model has 3");
    refused(&["--keys", "q_proj,query"], "no linear layer `query` in a block; there are self_attn");
    let all = ["--num-layers", "-1"];
    let refused = |options: &[&str], expected: &str| refused(&[&all, options].concat(), expected);
    let size = "batch size 12 is larger than the data set of 11";
    refused(&["--batch-size", "12"], size);
    refused(&["--batch-size", "12", "--semantics", "mlx"], size);
    refused(
        &["--steps-per-report", "18446744073709551615"],
        "steps-per-report is 18446744073709551615; it is at most",
    );
    refused(&["--resume"], "checkpoint.safetensors: nothing to resume");
    refused(&["--data", "missing"], "missing: no such file or folder");
    refused(&["--init-adapter", "missing"], "missing: no such folder");

    let of = |text: &str, expected: &str, more: &[&str]| {
        let data = data(text);
        let options = ["--data", data.path().to_str().unwrap(), "--batch-size", "1"];
        refused(&[&options, more].concat(), expected);
    };
    let good = "{\"text\": \"a\"}\n";
    of("", "train.jsonl: ", &[]);
    of(&format!("{good}{{\"text\": \n"), "train.jsonl:2: not JSON", &[]);
    of(&format!("{good}{good}{{\"prompt\": \"a\"}}\n"), "train.jsonl:3: ", &[]);
    let long = format!("{good}{{\"text\": \"{}\"}}\n", "cat ".repeat(400));
    let limit = "the model's context is 256; set max-seq-length to 256 or less";
    of(&long, limit, &["--max-seq-length", "100000"]);
}

#[test]
fn another_adapter_or_checkpoint_is_one_clear_line() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    let settings: &[&[&str]] = &[SMALL, &["--iters", "2", "--val-batches", "0"]];
    ran(&run, settings);
    let (path, there) = (run.join(CHECKPOINT), names(&run));
    let good = fs::read(&path).unwrap();
    let refused = |options: &[&str], expected: &str| {
        let before = fs::read(&path).unwrap();
        let problem = error(train(&run, &[options]).output().unwrap());
        assert!(problem.contains(expected), "{options:?}: {problem}");
        assert_eq!(names(&run), there);
        assert!(fs::read(&path).unwrap() == before, "{options:?} changed the checkpoint");
    };
    refused(&["--resume", "--rank", "4"], "--resume keeps the settings of the run");
    refused(&["--resume", "--iters", "1"], "--iters is 1, the run has done 2 already");
    let other = data("{\"text\": \"a\"}\n");
    let other = ["--resume", "--data", other.path().to_str().unwrap()];
    refused(&other, "the saved data order is of another data set");

    let damaged = "checkpoint.safetensors: not a checkpoint: ";
    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    for bytes in [&good[..good.len() - 1], &good[..5], &[], &flipped] {
        fs::write(&path, bytes).unwrap();
        refused(&["--resume"], damaged);
    }
    fs::write(&path, &good).unwrap();

    let new = root.path().join("new");
    let init = ["--init-adapter", run.to_str().unwrap()];
    let shape = train(&new, &[&init, &["--rank", "3"]]).output().unwrap();
    let shape = error(shape);
    assert!(shape.contains("has not rank 3 and scale 20"), "{shape}");
    assert!(!new.exists());
    // With its own shape it is where a run begins.
    let options: &[&[&str]] = &[&init, &["--rank", "2", "--batch-size", "1", "--iters", "1"]];
    ran(&new, &[&options.concat(), &["--learning-rate", "0"]]);
    assert_same_file(&new, &run, "adapters.safetensors");
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_older_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    ran(&run, &[SMALL, &["--iters", "2", "--val-batches", "0"]]);
    let there = names(&run);
    let before: Vec<_> = there.iter().map(|name| fs::read(run.join(name)).unwrap()).collect();
    // No file above 10 blocks of 512 bytes; a write beyond is an error, as on a full disk.
    let command = train(&run, &[&["--resume", "--iters", "4"]]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 10; exec \"$@\"", "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let problem = one_error(&limited.output().unwrap());
    assert!(problem.contains("checkpoint.safetensors: "), "{problem}");
    assert!(problem.contains("make room or choose another folder"), "{problem}");
    assert_eq!(names(&run), there);
    for (name, before) in there.iter().zip(before) {
        if !OF_A_RUN.contains(&name.as_str()) {
            assert!(fs::read(run.join(name)).unwrap() == before, "{name} changed");
        }
    }
    // And the run can go on once there is room.
    ran(&run, &[&["--resume", "--iters", "4"]]);
    assert_eq!(metrics(&run).last().unwrap()["iteration"], json!(4));
}

#[test]
fn gradient_checkpoints_save_memory_and_change_no_loss() {
    let root = tempfile::tempdir().unwrap();
    let (plain, saving) = (root.path().join("plain"), root.path().join("saving"));
    let options: &[&str] = &[
        "--iters",
        "6",
        "--learning-rate",
        "1e-2",
        "--num-layers",
        "-1",
        "--steps-per-report",
        "1",
    ];
    let said = ran(&plain, &[options]);
    assert!(said.contains("peak GPU memory"), "{said}");
    ran(&saving, &[options, &["--grad-checkpoint"]]);
    for key in ["train_loss", "val_loss", "gradient_norm"] {
        let (plain, saving) = (losses(&plain, key), losses(&saving, key));
        assert_eq!(plain.len(), saving.len());
        for (a, b) in plain.iter().zip(&saving) {
            assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{key}: {plain:?} {saving:?}");
        }
    }
    let peak = |folder: &PathBuf| metrics(folder).last().unwrap()["peak_memory_bytes"].as_u64();
    assert!(peak(&saving) < peak(&plain), "{:?} {:?}", peak(&saving), peak(&plain));
}
