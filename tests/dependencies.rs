//! What the crates that we build on may be: their licences and where they come from.
#![cfg(not(target_arch = "wasm32"))] // Native only: it runs cargo.

use std::collections::HashSet;
use std::process::Command;

use serde_json::Value;

/// Licences that a program under MIT or Apache-2.0 may be built with.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    // A dedication to the public; what a crate of the native runner's would build on in a page.
    "CC0-1.0",
    // The certificates of the native runner's TLS: data.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    // A library of the native runner's, used unchanged.
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that bring a C library that has to be installed.
const BANNED: &[&str] = &["native-tls", "openssl-sys"];

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Every crate that is built on some platform with some feature. The lock file has more: what the
/// features of others could ask for.
fn packages() -> Vec<Value> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked", "--all-features"]);
    let mut metadata: Value = serde_json::from_slice(&metadata).unwrap();
    let Value::Array(mut packages) = metadata["packages"].take() else { panic!("no packages") };
    let tree = "tree --locked --workspace --all-features --target all --edges all --prefix none";
    let tree = cargo(&tree.split(' ').chain(["--format", "{p}"]).collect::<Vec<_>>());
    let built: HashSet<String> = String::from_utf8(tree)
        .unwrap()
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    let name = |package: &Value| {
        let part = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        format!("{} v{}", part("name"), part("version"))
    };
    packages.retain(|package| built.contains(&name(package)));
    assert!(packages.len() > 300, "{} of {} are built", packages.len(), built.len());
    packages
}

/// Whether one may choose allowed licences out of an SPDX expression. `/` is its old `OR`.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.trim();
    let alternatives = split(expression, &[" OR ", "/"]);
    if alternatives.len() > 1 {
        return alternatives.into_iter().any(is_allowed);
    }
    let parts = split(expression, &[" AND "]);
    if parts.len() > 1 {
        return parts.into_iter().all(is_allowed);
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => is_allowed(inner),
        None => ALLOWED.contains(&expression),
    }
}

/// Splits at the separators that stand outside brackets.
fn split<'a>(text: &'a str, separators: &[&str]) -> Vec<&'a str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        let found = separators.iter().find(|separator| text[at..].starts_with(**separator));
        if let Some(separator) = found.filter(|_| depth == 0) {
            parts.push(&text[start..at]);
            start = at + separator.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

#[test]
fn every_licence_is_allowed() {
    let refused: Vec<String> = packages()
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(is_allowed))
        .map(|package| {
            format!("{} {}: {}", package["name"], package["version"], package["license"])
        })
        .collect();
    assert!(refused.is_empty(), "\n{}", refused.join("\n"));
}

#[test]
fn every_crate_comes_from_the_registry_and_none_is_banned() {
    let packages = packages();
    // A crate of our own has no source; the others share one, which is a registry and no repository.
    let registry = packages.iter().find_map(|package| package["source"].as_str()).unwrap();
    assert!(registry.starts_with("registry+"), "{registry}");
    for package in &packages {
        let source = package["source"].as_str();
        assert!(source.is_none_or(|source| source == registry), "{}: {source:?}", package["name"]);
        assert!(!BANNED.contains(&package["name"].as_str().unwrap()), "{}", package["name"]);
    }
}

#[test]
fn licence_expressions_are_understood() {
    for allowed in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "Apache-2.0 / MIT",
        "(GPL-3.0 OR MIT) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "(MIT"] {
        assert!(!is_allowed(refused), "{refused}");
    }
}
