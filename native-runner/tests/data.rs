//! Training data of every kind, read as a user has it read, on the tiny model.

// What the downloads' tests use of it is theirs.
#[allow(dead_code)]
mod hub;
mod tiny;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use hub::Hub;
use tiny::{engram, error, golden, stdout};

/// A folder with files in it, where commands run.
struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.write(name, text.as_bytes());
        }
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        engram(arguments).current_dir(&self.0).output().unwrap()
    }

    /// The metrics of a short training, and what it noted.
    #[track_caller]
    fn train(&self, options: &[&str]) -> (Vec<Value>, String) {
        let mut arguments = vec!["train", "--adapter-path", "out", "--num-layers", "1"];
        arguments.extend(["--rank", "2", "--keys", "q_proj", "--batch-size", "2"]);
        arguments.extend(["--steps-per-report", "1", "--save-every", "0"]);
        if !options.contains(&"--epochs") {
            arguments.extend(["--iters", "2"]);
        }
        let output = self.run(&[&arguments, options].concat());
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        stdout(output);
        (metrics(&self.path("out/metrics.jsonl")), notes)
    }
}

fn metrics(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The losses of a run, which tell its data.
fn losses(metrics: &[Value]) -> Vec<(Option<f64>, Option<f64>)> {
    metrics.iter().map(|line| (line["train_loss"].as_f64(), line["val_loss"].as_f64())).collect()
}

fn trained_tokens(metrics: &[Value]) -> u64 {
    metrics.iter().filter_map(|line| line["trained_tokens"].as_u64()).max().unwrap()
}

fn parquet(name: &str) -> Vec<u8> {
    fs::read(golden("parquet").join(name)).unwrap()
}

/// What is said of arguments that don't go together.
#[track_caller]
fn misused(output: Output) -> String {
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

/// Three chats in different clothes.
const CHAT: &str = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"oh"}]}
{"messages":[{"role":"user","content":"a\nb"},{"role":"assistant","content":"cd, \"e\""}]}
{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]}
"#;
const SHAREGPT: &str = r#"[{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"oh"}]},
 {"conversations":[{"from":"human","value":"a\nb"},{"from":"gpt","value":"cd, \"e\""}]},
 {"conversations":[{"from":"human","value":"x"},{"from":"gpt","value":"y"}]}]"#;
const ALPACA: &str = r#"{"instruction":"hi","input":"","output":"oh"}
{"instruction":"a","input":"b","output":"cd, \"e\""}
{"instruction":"x","output":"y"}
"#;
const TABLE: &str = "question,n,answer\r\nhi,1,oh\r\n\"a\nb\",2,\"cd, \"\"e\"\"\"\r\nx,3,y\r\n";
const COLUMNS: [&str; 4] = ["--prompt-feature", "question", "--completion-feature", "answer"];

#[test]
fn every_kind_of_file_trains_alike() {
    let folder = Folder::new(&[
        ("train.jsonl", CHAT),
        ("sharegpt.json", SHAREGPT),
        ("lines.json", ALPACA),
        ("table.csv", TABLE),
        ("d/train.csv", TABLE),
        ("d/valid.jsonl", CHAT),
        ("d/train-old.csv", "rubbish"),
    ]);
    let expected = folder.train(&["--data", "train.jsonl", "--val-batches", "0"]).0;
    let expected = losses(&expected);
    for data in ["sharegpt.json", "lines.json", "train.json*"] {
        let (metrics, _) = folder.train(&["--data", data, "--val-batches", "0"]);
        assert_eq!(losses(&metrics), expected, "{data}");
    }
    let table = [&["--data", "table.csv", "--val-batches", "0"], &COLUMNS[..]].concat();
    assert_eq!(losses(&folder.train(&table).0), expected);
    // A folder, one set of it as CSV; the other is validated on.
    let (metrics, _) = folder.train(&[&["--data", "d"], &COLUMNS[..]].concat());
    let trained: Vec<_> = metrics.iter().filter_map(|line| line["train_loss"].as_f64()).collect();
    assert_eq!(trained, expected.iter().filter_map(|(loss, _)| *loss).collect::<Vec<_>>());
    assert!(metrics.iter().any(|line| line["val_loss"].is_number()));
    let named = ["--data", "table.csv", "--valid-data", "train.jsonl"];
    let given = folder.train(&[&named, &COLUMNS[..]].concat()).0;
    assert_eq!(losses(&given), losses(&metrics));

    // Parquet is the lines beside it.
    let of = |name: &str| {
        let path = golden("parquet").join(name);
        let data = path.to_str().unwrap().to_owned();
        losses(&folder.train(&["--data", &data, "--val-batches", "0", "--mask-prompt"]).0)
    };
    assert_eq!(of("completions.parquet"), of("completions.jsonl"));
    let config = fs::read_to_string(folder.path("out/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert!(config["data"][0].as_str().unwrap().ends_with("completions.jsonl"), "{config}");
}

#[test]
fn turns_of_the_assistant_carry_the_loss() {
    let chat = r#"{"messages":[{"role":"user","content":"aaaa"},{"role":"assistant","content":"b"},{"role":"user","content":"cc"},{"role":"assistant","content":"dddddd"}]}"#;
    let folder = Folder::new(&[("x.jsonl", &format!("{chat}\n{}\n", chat.replace('d', "e")))]);
    let trained = |more: &[&str]| {
        let options = [&["--data", "x.jsonl", "--val-batches", "0"], more].concat();
        trained_tokens(&folder.train(&options).0)
    };
    // Of every turn: the text, <|im_end|> and a line feed.
    let last = trained(&["--mask-prompt"]);
    assert_eq!(trained(&["--assistant-only-loss"]), last + 2 * 2 * (1 + 2));
    assert!(trained(&[]) > last + 2 * 2 * (1 + 2));
    let both =
        folder.run(&["train", "--data", "x.jsonl", "--mask-prompt", "--assistant-only-loss"]);
    assert!(misused(both).contains("cannot be used with"));
}

#[test]
fn epochs_and_a_share_for_validation() {
    let lines: String =
        (0..11).map(|i| format!("{{\"prompt\":\"say {i}\",\"completion\":\"{i}\"}}\n")).collect();
    let folder = Folder::new(&[("x.jsonl", &lines)]);
    let options = ["--data", "x.jsonl", "--val-split", "0.25", "--epochs", "3", "--seed", "5"];
    let (first, notes) = folder.train(&options);
    assert!(notes.contains("validation: 3 of 11 training records, chosen by seed 5\n"), "{notes}");
    assert!(notes.contains("epochs: 3, of 4 iterations each\n"), "{notes}");
    assert_eq!(first.iter().filter(|line| line["train_loss"].is_number()).count(), 12);
    assert_eq!(losses(&folder.train(&options).0), losses(&first));
    let printed = folder.run(&[&["train", "--print-config"], &options[..]].concat());
    let printed = stdout(printed);
    assert!(printed.contains("epochs: 3\n") && !printed.contains("iters:"), "{printed}");
    // The folder's own file has the iterations that they were.
    let (again, _) = folder.train(&["--config", "out/config.yaml", "--epochs", "3"]);
    assert_eq!(losses(&again), losses(&first));
    let more = ["--data", "x.jsonl", "--val-split", "0.25", "--epochs", "4", "--resume"];
    assert_eq!(folder.train(&more).0.last().unwrap()["iteration"], 16);

    for (options, expected) in [
        (&["--val-split", "0"][..], "val-split is 0; it is between 0 and 1"),
        (&["--val-split", "0.95"], "val-split 0.95 of 11 records leaves none to train on"),
        (&["--epochs", "0"], "epochs is 0"),
        (&["--epochs", "18446744073709551615"], "epochs is 18446744073709551615, of 3 iterations"),
        (&["--valid-data", "none.csv"], "none.csv: no such file or folder"),
    ] {
        let small = ["train", "--num-layers", "1", "--data", "x.jsonl"];
        let error = error(folder.run(&[&small, options].concat()));
        assert!(error.contains(expected), "{error}");
    }
    for options in [["--epochs", "1", "--iters", "1"], ["--valid-data", "a", "--val-split", "0.1"]]
    {
        let said = misused(folder.run(&[&["train", "--data", "x.jsonl"], &options[..]].concat()));
        assert!(said.contains("cannot be used with"), "{said}");
    }
    fs::write(folder.path("valid.jsonl"), &lines).unwrap();
    fs::rename(folder.path("x.jsonl"), folder.path("train.jsonl")).unwrap();
    let error =
        error(folder.run(&["train", "--num-layers", "1", "--data", ".", "--val-split", "0.1"]));
    assert!(error.contains("--val-split is for data without a valid set; . has one"), "{error}");
}

#[test]
fn what_repeats_is_said_when_a_training_begins() {
    let line = |prompt: &str| format!("{{\"prompt\":\"{prompt}\",\"completion\":\"c\"}}\n");
    let folder = Folder::new(&[
        ("train.jsonl", &[line("a b"), line("a b"), line("A  b"), line("d")].concat()),
        ("valid.jsonl", &[line("d"), line("e")].concat()),
        ("test.jsonl", &[line("D "), line("f")].concat()),
    ]);
    let (_, notes) = folder.train(&["--data", "."]);
    for expected in [
        "duplicates: of 4 training records, 1 repeated word for word, 1 more but for case \
         and white space\n",
        "leaks: of 2 valid prompts, 1 in the training set word for word, 0 more but for case",
        "leaks: of 2 test prompts, 0 in the training set word for word, 1 more but for case",
    ] {
        assert!(notes.contains(expected), "{notes}");
    }
    let (_, notes) = folder.train(&["--data", "train.jsonl,test.jsonl", "--val-batches", "0"]);
    assert!(notes.contains("test.jsonl: the test set, by its name\n"), "{notes}");
    // A test set that can't be read is none of a training's business.
    fs::write(folder.path("test.jsonl"), "{").unwrap();
    folder.train(&["--data", "."]);
}

#[test]
fn statistics_are_for_people_and_for_programs() {
    let folder = Folder::new(&[
        ("train.jsonl", CHAT),
        ("valid.csv", "prompt,completion\nhi,oh\nhi,oh\n"),
        ("test.json", "[{\"prompt\":\"X\",\"completion\":\"y\"}]"),
    ]);
    let said = stdout(folder.run(&["data", "stats", ".", "--max-seq-length", "20"]));
    for expected in [
        "train: 3 chat records, no duplicates\n  ./train.jsonl\n",
        "valid: 2 completions records, 1 repeated word for word, 0 more but for case",
        "  an epoch: 1 iterations at batch size 4, ",
        "./train.jsonl:2: ",
        "./valid.csv:3: ",
        "./test.json, row 1: ",
        "leaks: of 2 valid prompts, 2 in train word for word, 0 more",
        "leaks: of 1 test prompts, 0 in train word for word, 1 more",
        "leaks: of 1 test prompts, 0 in valid word for word, 0 more",
    ] {
        assert!(said.contains(expected), "no {expected:?} in\n{said}");
    }
    let json = ["data", "stats", "train.jsonl", "--json", "--batch-size", "2", "--mask-prompt"];
    let report: Value = serde_json::from_str(&stdout(folder.run(&json))).unwrap();
    let train = &report["sets"]["train"];
    assert_eq!(train["records"], 3);
    assert_eq!(train["epoch"]["batches"], 2);
    // Of each answer: the text, <|im_end|> and a line feed.
    let (total, trained) = (&train["tokens"]["total"], &train["tokens"]["trained"]);
    assert_eq!(trained.as_u64().unwrap(), 2 + 7 + 1 + 3 * 2);
    assert!(total.as_u64() > trained.as_u64(), "{train}");
    assert_eq!(train["over_long"], Value::Array(Vec::new()));
}

#[test]
fn bad_data_is_one_line_that_names_the_place() {
    let folder = Folder::new(&[]);
    folder.write("cut.parquet", &parquet("chats.parquet")[..1000]);
    let both = "[{\"text\":\"a\"},{\"messages\":[{\"role\":\"user\",\"content\":1}]}]";
    for (name, bytes, expected) in [
        ("a.csv", &b""[..], "a.csv: no records"),
        ("a.csv", b"prompt,completion\nx,y\nx\n", "a.csv:3: 1 cells for 2 columns"),
        ("a.csv", b"prompt,completion\nx,\xff\n", "a.csv:2: not UTF-8"),
        ("a.json", b"", "a.json: no records"),
        ("a.json", b"[{\"text\":\"a\"},\n{\"text\":", "a.json:2: not JSON: EOF"),
        ("a.json", both.as_bytes(), "a.json, row 2: message 1: `content` is not a string"),
        (
            "a.jsonl",
            b"{\"conversations\":[{\"from\":\"me\",\"value\":\"\"}]}",
            "a.jsonl:1: message 1: `from`",
        ),
        ("a.txt", b"plain", "a.txt:1: not JSON"),
        ("a.parquet", b"", "a.parquet: no Parquet file"),
    ] {
        if name.starts_with("a.") {
            folder.write(name, bytes);
        }
        for command in
            [&["train", "--num-layers", "1", "--data", name][..], &["data", "stats", name]]
        {
            let error = error(folder.run(command));
            assert!(error.contains(expected), "{error}");
        }
    }
    let error = error(folder.run(&["train", "--num-layers", "1", "--data", "cut.parquet"]));
    assert!(error.contains("cut.parquet: no Parquet file"), "{error}");
}

#[test]
fn a_table_is_evaluated() {
    let folder = Folder::new(&[("quiz.csv", TABLE), ("lines.jsonl", CHAT)]);
    let run = |data: &[&str]| {
        let options = ["eval", "--max-new-tokens", "2", "--no-loss", "--data"];
        stdout(folder.run(&[&options, data].concat()))
    };
    let table = run(&[&["quiz.csv"], &COLUMNS[..]].concat());
    assert!(table.contains('3'), "{table}");
    assert_eq!(table, run(&["lines.jsonl"]));
}

const CARD: &str = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    \
    path: main/train-*\n  - split: test\n    path: main/test-*\n- config_name: other\n  \
    data_files: other.csv\n---\n# Three chats\n";

#[test]
fn a_data_set_of_the_hub_is_fetched_once_and_then_without_it() {
    let folder = Folder::new(&[("train.jsonl", CHAT)]);
    let expected = losses(&folder.train(&["--data", "train.jsonl", "--val-batches", "0"]).0);
    let hub = Hub::start(&[
        ("README.md", CARD.into()),
        ("main/train-00000-of-00002.jsonl", CHAT.lines().next().unwrap().into()),
        (
            "main/train-00001-of-00002.jsonl",
            CHAT.lines().skip(1).collect::<Vec<_>>().join("\n").into(),
        ),
        ("main/test-0.jsonl", "{".into()),
        ("other.csv", TABLE.into()),
    ]);
    let home = folder.path("hub");
    let command = |arguments: &[&str], address: &str| {
        let mut command = engram(arguments);
        command.current_dir(&folder.0).env("HF_HOME", &home).env("HF_ENDPOINT", address);
        command
    };
    let small = ["--num-layers", "1", "--rank", "2", "--keys", "q_proj", "--batch-size", "2"];
    let rest = ["--steps-per-report", "1", "--val-batches", "0", "--iters", "2"];
    let train = |data: &[&'static str]| {
        [&["train", "--adapter-path", "out", "--data"], data, &small, &rest].concat()
    };
    let address = hub.address();
    let other = [&["hf:org/name:other"], &COLUMNS[..]].concat();
    let all = ["hf:org/name:main/train[:100%]"];
    for data in [&["hf:org/name:main/train"][..], &all, &["hf:org/name:main"], &other] {
        stdout(command(&train(data), &address).output().unwrap());
        assert_eq!(losses(&metrics(&folder.path("out/metrics.jsonl"))), expected, "{data:?}");
        let fetched = hub.ranges().len();
        let mut again = command(&train(data), "http://127.0.0.1:9");
        stdout(again.env("HF_HUB_OFFLINE", "1").output().unwrap());
        assert_eq!(losses(&metrics(&folder.path("out/metrics.jsonl"))), expected, "{data:?}");
        assert_eq!(hub.ranges().len(), fetched);
    }
    for (data, expected) in [
        ("hf:org/name", "hf:org/name has several configurations, name one of them"),
        ("hf:org/name:main/valid", "no split valid there; there are train, test"),
        ("hf:org/name:none/train", "no configuration none there; there are main, other"),
        ("hf:org/name:main/test", "hf:org/name:main/test-0.jsonl:1: not JSON"),
        ("hf:org/none", "hf:org/none: no such repository"),
        // Of both files together.
        ("hf:org/name:main/train[:1]", "batch size 2 is larger than the data set of 1 usable"),
        ("hf:org/name:main/train[-1:]", "batch size 2 is larger than the data set of 1 usable"),
        ("hf:org/name:main/train[9:]", "hf:org/name:main/train[9:]: no record of "),
    ] {
        let error = error(command(&train(&[data]), &address).output().unwrap());
        assert!(error.contains(expected), "{error}");
    }
    let said = misused(command(&train(&["hf:org/name:"]), &address).output().unwrap());
    assert!(said.contains("not of the form hf:ORG/NAME[@REVISION][:PART]"), "{said}");
    let fresh = folder.path("fresh");
    let mut offline = command(&train(&["hf:org/name:other"]), "http://127.0.0.1:9");
    let error = error(offline.env("HF_HOME", fresh).env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert!(
        error.contains("hf:org/name:other: not in the cache, and HF_HUB_OFFLINE is set"),
        "{error}"
    );
}
