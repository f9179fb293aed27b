//! Invariants of the source that the compiler doesn't check.
#![cfg(not(target_arch = "wasm32"))] // Native only: it reads the source, and a page has no files.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules that build on one another, from the bottom: each may use those above it in this
/// list, and none of its own row but itself.
const LAYERS: &[&[&str]] = &[
    &["gpu"],
    &["kernels"],
    &["ops"],
    &["model"],
    &["burn"],
    &["generate", "train"],
    &["eval"],
    &["bench"],
    &["web"],
];

/// Modules that know nothing of a GPU; of [`LAYERS`] they may use the model's configuration alone.
const BASE: &[&str] = &["convert", "data", "error", "formats", "text"];

/// What a page does not have, and where it would come from.
const OUTSIDE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "print!(",
    "println!(",
    "dbg!(",
];

/// Marks of unfinished work.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "#[ignore"];

const MAX_LINES: usize = 700;

/// A source file: its path below `src`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The module of the crate that it belongs to.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Its lines with their numbers, without comments and without the tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        self.text[..end].lines().enumerate().map(|(index, line)| {
            let code = line.split_once("//").map_or(line, |(code, _)| code);
            (index + 1, code)
        })
    }
}

/// Every file below `src` with the extension, those aside that only tests compile.
fn sources(extension: &str) -> Vec<Source> {
    let mut found = all_sources(extension);
    let tests: Vec<String> = found.iter().flat_map(test_files).collect();
    found.retain(|source| !tests.contains(&source.path));
    found
}

/// Every file below `src` with the extension.
fn all_sources(extension: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let relative = path.strip_prefix(&root).unwrap().to_str().unwrap();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: relative.replace('\\', "/"), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The files that a `#[cfg(test)] mod x;` of `source` stands for.
fn test_files(source: &Source) -> Vec<String> {
    let folder = source.path.trim_end_matches("mod.rs").trim_end_matches("lib.rs");
    let folder = folder.strip_suffix(".rs").map_or(folder.to_owned(), |stem| format!("{stem}/"));
    let declared = source.text.split("#[cfg(test)]\n").skip(1);
    declared
        .filter_map(|rest| rest.lines().next()?.split_once("mod ")?.1.strip_suffix(';'))
        .map(|name| format!("{folder}{name}.rs"))
        .collect()
}

/// The first names of every `crate::…` in a line of code, groups in braces included.
fn imports(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(first_name(rest));
            continue;
        };
        let mut depth = 0;
        let parts = group.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth < 0 || (depth == 0 && c == ',')
        });
        names.extend(parts.map(|part| first_name(part.trim())));
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_name(path: &str) -> &str {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    &path[..end]
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn misdirected(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.path != "lib.rs") {
        let from = source.module();
        if layer(from).is_none() && !BASE.contains(&from) {
            problems.push(format!("{}: say in LAYERS or BASE where {from} stands", source.path));
            continue;
        }
        // `use crate::{` may go over several lines: join the code.
        let mut numbered = source.code().peekable();
        while let Some((line, code)) = numbered.next() {
            let mut code = code.to_owned();
            while code.contains("crate::{") && !code.contains(';') && numbered.peek().is_some() {
                code.push_str(numbered.next().map_or("", |(_, more)| more));
            }
            for to in imports(&code) {
                let allowed = match (layer(from), layer(to)) {
                    (_, None) => true,
                    (None, Some(_)) => to == "model",
                    (Some(from_layer), Some(to_layer)) => from == to || to_layer < from_layer,
                };
                if !allowed {
                    problems.push(format!("{}:{line}: {from} may not use {to}", source.path));
                }
            }
        }
    }
    problems
}

fn containing(sources: &[Source], forbidden: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        for (line, code) in source.code() {
            for word in forbidden.iter().filter(|word| code.contains(**word)) {
                problems.push(format!("{}:{line}: {word}", source.path));
            }
            // `use std::{env, fs}` says the same in another way.
            for group in code.split("std::{").skip(1) {
                for word in forbidden.iter().filter_map(|word| word.strip_prefix("std::")) {
                    if group.split(['{', '}', ',']).any(|name| first_name(name.trim()) == word) {
                        problems.push(format!("{}:{line}: std::{word}", source.path));
                    }
                }
            }
        }
    }
    problems
}

/// Shaders that no file beside them names.
fn unreferenced(shaders: &[Source], sources: &[Source]) -> Vec<String> {
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let is_named = |shader: &Source| {
        let name = shader.path.rsplit('/').next().unwrap_or_default();
        sources.iter().any(|source| {
            folder(&source.path) == folder(&shader.path)
                && source.text.contains(&format!("\"{name}\""))
        })
    };
    shaders.iter().filter(|shader| !is_named(shader)).map(|shader| shader.path.clone()).collect()
}

fn too_long(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().filter(|source| source.text.lines().count() > MAX_LINES);
    long.map(|source| format!("{}: over {MAX_LINES} lines", source.path)).collect()
}

/// Tests under the standard attribute: a page would leave them out without a word.
fn native_only(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        let imports_ours = source.text.lines().any(|line| {
            let imported = line.trim().strip_prefix("use crate::testing::");
            imported.is_some_and(|names| {
                names.split([' ', ',', ';', '{', '}']).any(|name| name == "test")
            })
        });
        if !imports_ours && source.text.lines().any(|line| line.trim() == "#[test]") {
            problems.push(format!("{}: #[test] without crate::testing::test", source.path));
        }
    }
    problems
}

fn wgpu_versions(lock: &str) -> usize {
    lock.lines().filter(|line| *line == "name = \"wgpu\"").count()
}

#[track_caller]
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn modules_use_only_what_is_below_them() {
    assert_none(&misdirected(&sources("rs")));
}

#[test]
fn the_library_touches_nothing_that_a_page_lacks() {
    let mut sources = sources("rs");
    // Where there are threads, kernels are compiled on them.
    sources.retain(|source| source.module() != "web" && source.path != "gpu/pipeline.rs");
    assert_none(&containing(&sources, OUTSIDE));
}

#[test]
fn nothing_is_left_unfinished() {
    let rust = sources("rs");
    assert_none(&containing(&rust, UNFINISHED));
    let ignored = |source: &&Source| source.text.lines().any(|l| l.trim().starts_with("#[ignore"));
    assert_none(&rust.iter().filter(ignored).map(|s| s.path.clone()).collect::<Vec<_>>());
}

#[test]
fn every_shader_is_used_by_a_file_beside_it() {
    let shaders = sources("wgsl");
    assert!(!shaders.is_empty());
    assert_none(&unreferenced(&shaders, &sources("rs")));
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut sources = sources("rs");
    sources.extend(self::sources("wgsl"));
    assert_none(&too_long(&sources));
}

#[test]
fn every_test_runs_in_a_page_too() {
    assert_none(&native_only(&all_sources("rs")));
}

#[test]
fn every_crate_shares_one_wgpu() {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    assert_eq!(wgpu_versions(&fs::read_to_string(lock).unwrap()), 1);
}

/// The checks themselves, on samples that have to fail.
mod samples {
    use super::*;

    fn sample(path: &str, text: &str) -> [Source; 1] {
        [Source { path: path.to_owned(), text: text.to_owned() }]
    }

    #[test]
    fn wrong_directions_are_found() {
        for (path, text) in [
            ("gpu/mod.rs", "use crate::kernels::matmul;"),
            ("train/step.rs", "fn f() { crate::eval::run() }"),
            ("train/mod.rs", "use crate::{Error, eval};"),
            ("generate/mod.rs", "use crate::{\n    Error,\n    train::{Adam, x},\n};"),
            ("text.rs", "use crate::gpu::Context;"),
            ("novel/mod.rs", ""),
        ] {
            assert_eq!(misdirected(&sample(path, text)).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn right_directions_pass() {
        for (path, text) in [
            ("eval/mod.rs", "use crate::{generate, model::{a, b}, train};"),
            ("formats/mod.rs", "use crate::model::ModelConfig;"),
            ("gpu/mod.rs", "// crate::eval\nuse crate::gpu::x;"),
            ("gpu/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::kernels;\n}"),
        ] {
            assert_none(&misdirected(&sample(path, text)));
        }
    }

    #[test]
    fn files_of_tests_are_told_apart() {
        let text = "mod a;\n#[cfg(test)]\npub(crate) mod b;\n#[cfg(test)]\nmod tests {\n";
        for (path, expected) in [("x/mod.rs", "x/b.rs"), ("x/y.rs", "x/y/b.rs"), ("lib.rs", "b.rs")]
        {
            let [source] = sample(path, text);
            assert_eq!(test_files(&source), [expected]);
        }
    }

    #[test]
    fn forbidden_words_are_found() {
        for text in [
            "use std::fs::File;",
            "use std::{collections::HashMap, thread};",
            "let t = Instant::now();",
            "println!(\"x\")",
            "std::env::var(\"X\")",
        ] {
            assert!(!containing(&sample("gpu/x.rs", text), OUTSIDE).is_empty(), "{text}");
        }
        for text in ["// std::fs", "use std::{collections::HashMap, fmt};", "environment()"] {
            assert_none(&containing(&sample("gpu/x.rs", text), OUTSIDE));
        }
        assert_eq!(containing(&sample("gpu/x.rs", "todo!()"), UNFINISHED).len(), 1);
    }

    #[test]
    fn lone_shaders_are_found() {
        let shader = sample("kernels/x.wgsl", "");
        let named = "include_str!(\"x.wgsl\")";
        assert_eq!(unreferenced(&shader, &sample("kernels/x.rs", "")).len(), 1);
        assert_eq!(unreferenced(&shader, &sample("gpu/x.rs", named)).len(), 1);
        assert_none(&unreferenced(&shader, &sample("kernels/x.rs", named)));
    }

    #[test]
    fn tests_that_a_page_would_leave_out_are_found() {
        let test = "#[test]\nfn works() {}";
        assert_eq!(native_only(&sample("a.rs", test)).len(), 1);
        assert_eq!(
            native_only(&sample("a.rs", &format!("use crate::testing::async_test;\n{test}"))).len(),
            1
        );
        for import in ["use crate::testing::test;", "use crate::testing::{async_test, test};"] {
            assert_none(&native_only(&sample("a.rs", &format!("{import}\n{test}"))));
        }
    }

    #[test]
    fn long_files_and_second_versions_are_found() {
        assert_eq!(too_long(&sample("a.rs", &"\n".repeat(MAX_LINES + 1))).len(), 1);
        assert_eq!(wgpu_versions("name = \"wgpu\"\nname = \"wgpu-core\"\nname = \"wgpu\"\n"), 2);
    }
}
