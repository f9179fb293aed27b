//! `engram demo`, run as a user runs it, on the tiny model and adapter of the goldens.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/goldens");

fn demo(arguments: &[&str], typed: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engram"));
    command
        .current_dir(GOLDENS)
        .args(["--model", "tiny", "--engine", "wgpu", "demo"])
        .args(["--max-new-tokens", "8"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have ended before it read anything.
    let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
    child.wait_with_output().unwrap()
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

#[test]
fn every_line_of_the_input_is_a_prompt() {
    let said = stdout(&demo(&["--adapter-path", "tiny_adapter_mlx"], "Hello\n\n2+2=\r\n"));
    let labels: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with("  "))
        .map(|line| line.split(':').next().unwrap())
        .collect();
    let answered = ["prompt", "base", "tiny_adapter_mlx", ""];
    assert_eq!(labels, [answered, answered].concat(), "{said}");
    assert!(said.contains("prompt: 2+2=\n"), "{said}");
}

#[test]
fn quick_shows_prompts_of_the_data_set_and_what_was_expected() {
    let adapters = [
        "--adapter-path",
        "tiny_adapter_mlx",
        "--name",
        "a",
        "--adapter-path",
        "tiny_adapter_peft",
    ];
    let said = stdout(&demo(&[&adapters[..], &["--name", "b", "--quick"]].concat(), ""));
    for label in ["prompt: ", "expected: ", "base: ", "a: ", "b: "] {
        let count = said.lines().filter(|line| line.starts_with(label)).count();
        assert_eq!(count, 5, "{label} {said}");
    }
    // The same adapter in two layouts.
    let of = |label: &str| -> Vec<String> {
        let lines = said.lines().filter_map(|line| line.strip_prefix(label));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(of("a: "), of("b: "));
    assert_ne!(of("a: "), of("base: "));
}

#[test]
fn what_cannot_be_shown_is_one_clear_line() {
    let nothing = error(&demo(&["--adapter-path", "tiny_adapter_mlx"], "\n"));
    assert!(nothing.contains("no prompt on standard input"), "{nothing}");
    let missing = error(&demo(&["--adapter-path", "missing", "--quick"], ""));
    assert!(missing.contains("missing: no such folder"), "{missing}");
    let data =
        error(&demo(&["--adapter-path", "tiny_adapter_mlx", "--quick", "--data", "missing"], ""));
    assert!(data.contains("error: missing: "), "{data}");
}
