//! Bad input, `engram data` and `engram doctor`, run as a user runs them.

mod tiny;

use std::path::Path;

use tiny::{engram, error, golden, stdout};

/// What `engram generate` does with a model.
fn load(model: &Path) -> std::process::Output {
    let model = model.to_str().unwrap();
    engram(&["-q", "--model", model, "generate", "hi", "--max-new-tokens", "2"]).output().unwrap()
}

#[test]
fn a_truncated_gguf_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let missing = error(load(&path));
    assert!(missing.contains("cut.gguf: no model there"), "{missing}");
    let whole = std::fs::read(golden("tiny_q4_1.gguf")).unwrap();
    for length in [0, 3, 4, 8, 23, 24, 100, 4000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = error(load(&path));
        assert!(error.contains("cut.gguf: "), "{error}");
        assert!(length < 4 || error.contains("truncated"), "{length}: {error}");
    }
}

#[test]
fn hostile_lengths_in_a_gguf_are_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    let whole = std::fs::read(golden("tiny_q4_1.gguf")).unwrap();
    // The counts of tensors and of metadata, and the length of the first key.
    for offset in [8, 16, 24] {
        for length in [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 20] {
            let mut bytes = whole.clone();
            bytes[offset..offset + 8].copy_from_slice(&length.to_le_bytes());
            std::fs::write(&path, bytes).unwrap();
            let error = error(load(&path));
            assert!(error.contains("hostile.gguf: "), "{error}");
        }
    }
}

#[test]
fn flipped_bits_in_a_gguf_are_harmless_or_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.gguf");
    let whole = std::fs::read(golden("tiny_q4_1.gguf")).unwrap();
    let mut refused = 0;
    for at in 0..32 {
        // Mostly in the header, where a flip can do harm.
        let at = if at < 24 { at * 251 } else { at * whole.len() / 32 };
        let mut bytes = whole.clone();
        bytes[at] ^= 0x90;
        std::fs::write(&path, bytes).unwrap();
        let output = load(&path);
        if !output.status.success() {
            refused += 1;
            error(output);
        }
    }
    assert!(refused > 0);
}

#[test]
fn an_unknown_architecture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden("tiny")).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("llama", "mamba").replace("Llama", "Mamba")).unwrap();
    let refused = error(load(folder.path()));
    assert!(refused.contains("mamba") && refused.contains("llama"), "{refused}");

    let path = folder.path().join("mamba.gguf");
    let mut bytes = std::fs::read(golden("tiny_q4_1.gguf")).unwrap();
    let at = bytes.windows(5).position(|window| window == b"llama").unwrap();
    bytes[at..at + 5].copy_from_slice(b"mamba");
    std::fs::write(&path, bytes).unwrap();
    let refused = error(load(&path));
    assert!(refused.contains("mamba.gguf: ") && refused.contains("llama"), "{refused}");
}

#[test]
fn a_safetensors_model_that_is_damaged_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden("tiny")).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let mut hostile = whole.clone();
    hostile[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for bytes in [&[][..], &whole[..7], &whole[..100], &whole[..whole.len() - 1], &hostile] {
        std::fs::write(&path, bytes).unwrap();
        let error = error(load(folder.path()));
        assert!(error.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn an_adapter_that_is_not_there_is_named_with_those_that_are() {
    for command in [&["generate", "hi"][..], &["doctor"]] {
        let output = engram(&[command, &["--adapter", "nosuch"]].concat()).output().unwrap();
        let error = error(output);
        assert!(error.contains("no adapter `nosuch`; there are: "), "{error}");
    }
}

#[test]
fn the_doctor_lists_every_check() {
    let table = stdout(engram(&["doctor"]).output().unwrap());
    for row in ["adapter ", "driver ", "limits ", "attention ", "matvec q4 ", "adam "] {
        assert!(table.lines().any(|line| line.starts_with(row)), "{row}: {table}");
    }
    assert!(table.ends_with("this adapter computes what it should\n"), "{table}");
    let checks = table.lines().filter(|line| line.ends_with(" ms")).count();
    assert!(table.contains(&format!("all {checks} checks passed")), "{table}");
}

#[test]
fn an_adapter_tests_itself_the_first_time() {
    let cache = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = engram(&["-v", "generate", "hi", "--max-new-tokens", "1"]);
        let output = command.env("ENGRAM_CACHE", cache.path()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap().contains("self-test of ")
    };
    assert_eq!([run(), run()], [true, false]);
    // It passed with another version, or on another machine.
    std::fs::write(cache.path().join("self-tests"), "engram 0.0.0, x, y, z\n").unwrap();
    assert_eq!([run(), run()], [true, false]);
}

#[test]
fn a_data_set_is_made_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        engram(&[&["data"], arguments].concat()).current_dir(&folder).output().unwrap()
    };
    let made = stdout(run(&["--out", "a/b"]));
    let sizes: Vec<&str> = made.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    assert_eq!(sizes, ["269 records", "68 records", "104 records"]);
    let train = || std::fs::read(folder.path().join("a/b/train.jsonl")).unwrap();
    let first = train();

    let again = error(run(&["--out", "a/b", "--seed", "1"]));
    assert!(again.contains("train.jsonl: is there already; --force"), "{again}");
    assert_eq!(train(), first);
    stdout(run(&["--out", "a/b", "--seed", "1", "--force"]));
    assert_ne!(train(), first, "the seed changes nothing");
    stdout(run(&["--out", "a/b", "--force"]));
    assert_eq!(train(), first, "the same seed gives another data set");

    let stats = stdout(run(&["stats", "a/b"]));
    assert!(stats.starts_with("train: 269 chat records, no duplicates\n"), "{stats}");
    assert!(!stats.contains(" over 256 ") && stats.contains("  fact/capital "), "{stats}");
    assert!(stats.contains("leaks: of 104 test prompts, 104 are in train or valid"), "{stats}");
    let short = stdout(run(&["stats", "a/b", "--max-seq-length", "40"]));
    assert!(short.contains(" over 40 tokens, cut there:\n"), "{short}");

    stdout(run(&["--out", "held", "--protocol", "held-out", "--held-out-fraction", "0.5"]));
    let stats = stdout(run(&["stats", "held"]));
    assert!(
        stats.contains(" test prompts, 0 are in train or valid word for word, 0 more"),
        "{stats}"
    );
}

#[test]
fn bad_patterns_and_fractions_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("none")).unwrap();
    std::fs::create_dir(path("bad")).unwrap();
    std::fs::write(path("bad/p.yaml"), "- {category: fact/a, input: x, output: y}\n- {x: 1}\n")
        .unwrap();
    std::fs::write(path("file"), "").unwrap();
    let cases = [
        (&["--out", "out", "--patterns", "no-such"][..], "no-such: No such file"),
        (&["--out", "out", "--patterns", "none"], "none: no .yaml files in it"),
        (&["--out", "out", "--patterns", "bad"], "p.yaml:2: "),
        (&["--out", "out", "--valid-fraction", "1"], "valid_fraction is 1"),
        (&["--out", "out", "--held-out-fraction", "nan"], "held_out_fraction is NaN"),
        (&["--out", "file"], "file: not a folder"),
    ];
    for (arguments, expected) in cases {
        let mut command = engram(&[&["data"], arguments].concat());
        let error = error(command.current_dir(&folder).output().unwrap());
        assert!(error.contains(expected), "{error}");
        assert!(!path("out").exists());
    }
}

#[test]
fn a_bad_data_file_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let stats = || engram(&["data", "stats", folder.path().to_str().unwrap()]).output().unwrap();
    assert!(error(stats()).contains(": no train, valid or test with the end .jsonl"));
    let good = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    for (lines, expected) in [
        (String::new(), "train.jsonl: no records"),
        ("\n\n".to_owned(), "train.jsonl: no records"),
        (format!("{good}\n{{\n"), "train.jsonl:2: not JSON"),
        (format!("{good}\n\n{good}\n"), "train.jsonl:2: blank line"),
        (
            format!("{good}\n{{\"text\": \"a\"}}\n"),
            "train.jsonl:2: a text record in a file of chat",
        ),
        (r#"{"messages": []}"#.to_owned(), "train.jsonl:1: `messages` is empty"),
        (r#"{"messages": [{"content": "a"}]}"#.to_owned(), "train.jsonl:1: message 1: `role`"),
        ("[1]".to_owned(), "train.jsonl:1: not a JSON object"),
    ] {
        std::fs::write(folder.path().join("train.jsonl"), lines).unwrap();
        let error = error(stats());
        assert!(error.contains(expected), "{error}");
    }
}

/// A role that a template knows nothing of is up to the template: one that refuses it is heard.
#[test]
fn what_a_template_refuses_names_the_record() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden("tiny")).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}\
                    {{ raise_exception('role ' + m.role) }}{% endif %}{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let lines = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n\
                 {\"messages\": [{\"role\": \"wizard\", \"content\": \"b\"}]}\n";
    std::fs::write(folder.path().join("test.jsonl"), lines).unwrap();
    let path = folder.path().to_str().unwrap();
    let error = error(engram(&["--model", path, "data", "stats", path]).output().unwrap());
    assert!(error.contains("test.jsonl:2: ") && error.contains("role wizard"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_data_set() {
    let folder = tempfile::tempdir().unwrap();
    // No file may grow beyond 8 KiB, which fails as a full disk does.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" data --out out/set";
    let mut command = std::process::Command::new("/bin/sh");
    command.current_dir(&folder).args(["-c", script, env!("CARGO_BIN_EXE_engram")]);
    let error = error(command.output().unwrap());
    assert!(error.contains("train.jsonl: File too large"), "{error}");
    assert!(!folder.path().join("out/set").exists());
    assert_eq!(std::fs::read_dir(folder.path().join("out")).unwrap().count(), 0);
}
