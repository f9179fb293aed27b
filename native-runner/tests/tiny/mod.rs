//! Runs the command on the tiny models of the goldens, away from the user's caches and network.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file or folder of the goldens.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/goldens").join(name)
}

/// `engram` with `arguments`, on the tiny model and by our kernels unless they name others.
pub fn engram(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engram"));
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Mesa's software adapter would say on stderr that it misses it.
        command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    }
    command
        .env("ENGRAM_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
        .env("HF_ENDPOINT", "http://127.0.0.1:9");
    if !arguments.contains(&"--model") {
        command.arg("--model").arg(golden("tiny"));
    }
    if !arguments.contains(&"--engine") {
        command.args(["--engine", "wgpu"]);
    }
    command.args(arguments);
    command
}

/// What it printed, after it succeeded.
#[track_caller]
pub fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of an error with exit code 2; nothing else was printed.
#[track_caller]
pub fn error(output: Output) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&output.stdout));
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors.as_slice() else { panic!("not one error: {stderr}") };
    assert_eq!(stderr.lines().last(), Some(*error));
    (*error).to_owned()
}
