//! Which files of a hub's data set make up what: by its card, or by their names.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail, ensure};
use glob::{MatchOptions, Pattern};
use serde_json::Value;

use super::layout::{Set, is_data};
use super::{Found, Place};
use crate::source::{Hub, HubSpec, is_plain};
use crate::terminal::Terminal;

/// The description of a data set, whose head may say what is where.
const CARD: &str = "README.md";

/// A pattern's stars stay within a folder, as in the hub's own tools.
const WITHIN_FOLDERS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// A configuration that the card names.
#[derive(Debug, Default, PartialEq)]
struct Config {
    name: String,
    is_default: bool,
    /// Splits and the patterns of their files.
    splits: Vec<(String, Vec<String>)>,
}

/// Finds the files that `spec` names: all of a data set, a configuration, a split, or a pattern of
/// files. They are downloaded when they are read.
pub fn find(spec: &HubSpec, terminal: Terminal) -> Result<Found> {
    let hub = Hub::from_env()?;
    let (commit, mut files) = hub.files(spec, terminal)?;
    files.sort();
    let configs = match files.iter().any(|file| file == CARD) {
        true => {
            let path = hub.fetch_file(&commit, CARD, None, terminal)?;
            configs(&String::from_utf8_lossy(&std::fs::read(path)?))
        }
        false => Vec::new(),
    };
    files.retain(|file| is_data(file) && !file.starts_with("dataset_info"));
    let chosen = choose(spec, &configs, &files)?;
    ensure!(
        !chosen.is_empty(),
        "{spec}: no .jsonl, .json, .csv or .parquet files there; most data sets have them at \
         hf:{}@refs/convert/parquet",
        spec.repository
    );
    let mut found = Found { is_whole: spec.file.is_none(), ..Found::default() };
    for (set, file) in chosen {
        ensure!(is_plain(&file), "{spec}: {file:?} is no file name that we take");
        found.push(set, file.clone(), Place::Hub(HubSpec { file: Some(file), ..commit.clone() }));
    }
    Ok(found)
}

/// The files that the part of `spec` names, and the sets that they belong to.
fn choose(
    spec: &HubSpec,
    configs: &[Config],
    files: &[String],
) -> Result<Vec<(Option<Set>, String)>> {
    let by_name = |file: &String| (Set::of_path(file), file.clone());
    let part = spec.file.as_deref();
    if let Some(pattern) = part.filter(|part| is_data(part) || part.contains(['*', '?', '['])) {
        return Ok(matching(files, &[pattern.to_owned()])?.iter().map(by_name).collect());
    }
    let (config, split) = match part.map(|part| part.split_once('/').unwrap_or((part, ""))) {
        None => (None, None),
        Some((name, "")) if configs.iter().any(|config| config.name == name) => (Some(name), None),
        Some((split, "")) => (None, Some(split)),
        Some((config, split)) => (Some(config), Some(split)),
    };
    if configs.is_empty() {
        return by_folders(spec, config, split, files);
    }
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    let wanted = match config {
        Some(name) => configs.iter().find(|config| config.name == name),
        None if configs.len() == 1 => configs.first(),
        None => configs.iter().find(|c| c.is_default || c.name == "default"),
    };
    let Some(wanted) = wanted else {
        match config {
            Some(name) => {
                bail!("{spec}: no configuration {name} there; there are {}", names.join(", "))
            }
            None => return Err(unnamed(spec, split, &names)),
        }
    };
    let mut chosen = Vec::new();
    for (name, patterns) in &wanted.splits {
        if split.is_none_or(|split| split == name) {
            let set = Set::of_path(name);
            chosen.extend(matching(files, patterns)?.into_iter().map(|file| (set, file)));
        }
    }
    if let Some(split) = split.filter(|_| chosen.is_empty()) {
        let splits: Vec<&str> = wanted.splits.iter().map(|(name, _)| name.as_str()).collect();
        bail!("{spec}: no split {split} there; there are {}", splits.join(", "));
    }
    Ok(chosen)
}

/// That a data set has several configurations, of which none is named.
fn unnamed(spec: &HubSpec, split: Option<&str>, names: &[&str]) -> anyhow::Error {
    anyhow!(
        "{spec} has several configurations, name one of them, as {}:{}{}; there are {}",
        HubSpec { file: None, ..spec.clone() },
        names.first().unwrap_or(&""),
        split.map(|split| format!("/{split}")).unwrap_or_default(),
        names.join(", ")
    )
}

/// Without a card a configuration is a folder, and a split begins a file's or a folder's name.
fn by_folders(
    spec: &HubSpec,
    config: Option<&str>,
    split: Option<&str>,
    files: &[String],
) -> Result<Vec<(Option<Set>, String)>> {
    let (config, split) = match (config, split) {
        // A folder's name, if it is no split's.
        (None, Some(name)) if Set::of_word(name).is_none() && is_folder(files, name) => {
            (Some(name), None)
        }
        given => given,
    };
    let is_split = |part: &str, split: &str| {
        part.strip_prefix(split)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_', '.']))
    };
    let is_wanted = |file: &&String| {
        let mut folders = file.rsplit('/').skip(1);
        config.is_none_or(|config| folders.any(|folder| folder == config))
            && split.is_none_or(|split| {
                let set = Set::of_word(split);
                file.split('/').any(|part| is_split(part, split))
                    || (set.is_some() && set == Set::of_path(file))
            })
    };
    let is_config = |file: &String| {
        let (config, rest) = file.split_once('/')?;
        let (split, _) = rest.split_once('/')?;
        Set::of_word(split).map(|_| config.to_owned())
    };
    let configs: BTreeSet<String> = files.iter().filter_map(is_config).collect();
    if config.is_none() && configs.len() > 1 {
        return Err(unnamed(spec, split, &configs.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let chosen: Vec<(Option<Set>, String)> =
        files.iter().filter(is_wanted).map(|file| (Set::of_path(file), file.clone())).collect();
    if let Some(part) = spec.file.as_deref().filter(|_| chosen.is_empty()) {
        let some: Vec<&str> = files.iter().take(5).map(String::as_str).collect();
        bail!("{spec}: no file of {part} there; there are {}", some.join(", "));
    }
    Ok(chosen)
}

fn is_folder(files: &[String], name: &str) -> bool {
    files.iter().any(|file| file.rsplit('/').skip(1).any(|folder| folder == name))
}

fn matching(files: &[String], patterns: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for pattern in patterns {
        let compiled = Pattern::new(pattern)
            .map_err(|error| anyhow!("{pattern:?} is no pattern of files: {error}"))?;
        found.extend(files.iter().filter(|f| compiled.matches_with(f, WITHIN_FOLDERS)).cloned());
    }
    Ok(found)
}

/// The configurations in the head of a card. One that can't be read counts as none.
fn configs(card: &str) -> Vec<Config> {
    let head = card.trim_start_matches('\u{feff}').strip_prefix("---").and_then(|rest| {
        let end = rest.find("\n---")?;
        Some(&rest[..end])
    });
    let head: Value = head.and_then(|head| serde_saphyr::from_str(head).ok()).unwrap_or_default();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    list(&head["configs"]).iter().filter_map(config).collect()
}

fn config(value: &Value) -> Option<Config> {
    let folder = value["data_dir"].as_str();
    let patterns = |value: &Value| -> Vec<String> {
        let texts: Vec<&str> = match value {
            Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        let below = |text: &str| match folder {
            Some(folder) => format!("{}/{text}", folder.trim_end_matches('/')),
            None => text.to_owned(),
        };
        texts.into_iter().map(below).collect()
    };
    let files = &value["data_files"];
    let is_split = |value: &Value| value.get("path").is_some();
    let splits = match files {
        Value::Array(items) if items.iter().all(is_split) => items
            .iter()
            .map(|item| Some((item["split"].as_str()?.to_owned(), patterns(&item["path"]))))
            .collect::<Option<Vec<_>>>()?,
        Value::Null => Vec::new(),
        files => vec![("train".to_owned(), patterns(files))],
    };
    if splits.is_empty() {
        return None;
    }
    Some(Config {
        name: value["config_name"].as_str()?.to_owned(),
        is_default: value["default"].as_bool() == Some(true),
        splits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "---\nlicense: mit\nconfigs:\n- config_name: main\n  data_files:\n  \
        - split: train\n    path: main/train-*\n  - split: test_sft\n    path: [main/test-*]\n\
        - config_name: other\n  data_dir: o\n  data_files: \"*.csv\"\n---\n# A data set\n";

    fn chosen(part: &str, card: &str, files: &[&str]) -> Result<Vec<(Option<Set>, String)>> {
        let file = Some(part.to_owned()).filter(|part| !part.is_empty());
        let spec = HubSpec { file, ..HubSpec::data_set("a/b").unwrap() };
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        choose(&spec, &configs(card), &files)
    }

    #[track_caller]
    fn assert_chosen(part: &str, card: &str, files: &[&str], expected: &[(Option<Set>, &str)]) {
        let found = chosen(part, card, files).unwrap();
        let found: Vec<_> = found.iter().map(|(set, file)| (*set, file.as_str())).collect();
        assert_eq!(found, expected, "{part}");
    }

    #[test]
    fn the_card_says_what_is_where() {
        let files =
            ["main/test-0.parquet", "main/train-0.parquet", "main/x/train-1.parquet", "o/a.csv"];
        let (train, test) = (Some(Set::Train), Some(Set::Test));
        let main = [(train, files[1]), (test, files[0])];
        assert_chosen("main", TWO, &files, &main);
        assert_chosen("main/test_sft", TWO, &files, &main[1..]);
        assert_chosen("other", TWO, &files, &[(train, files[3])]);
        assert_chosen("main/*.parquet", TWO, &files, &[(test, files[0]), (train, files[1])]);
        assert_chosen("o/a.csv", TWO, &files, &[(None, files[3])]);
        for (part, expected) in [
            (
                "",
                "hf:a/b has several configurations, name one of them, as hf:a/b:main; there are main, other",
            ),
            ("test_sft", "as hf:a/b:main/test_sft; there are"),
            ("main/dev", "hf:a/b:main/dev: no split dev there; there are train, test_sft"),
            ("x/train", "hf:a/b:x/train: no configuration x there; there are main, other"),
        ] {
            let error = chosen(part, TWO, &files).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let default = TWO.replace("- config_name: other", "- config_name: other\n  default: true");
        assert_chosen("", &default, &files, &[(train, files[3])]);
    }

    #[test]
    fn without_a_card_names_say_it() {
        let files = ["alpha/train.jsonl", "beta/dev.jsonl", "data/train_sft-0.parquet"];
        let (train, valid) = (Some(Set::Train), Some(Set::Valid));
        for card in [
            "",
            "# none",
            "---\nlicense: mit\n---\n",
            "---\nconfigs: [1, {}]\n---\n",
            "---\n[\n---",
        ] {
            let all = [(train, files[0]), (valid, files[1]), (train, files[2])];
            assert_chosen("", card, &files, &all);
        }
        assert_chosen("beta", "", &files, &[(valid, files[1])]);
        assert_chosen("train_sft", "", &files, &[(train, files[2])]);
        assert_chosen("alpha/train", "", &files, &[(train, files[0])]);
        // As the hub's own conversion to Parquet has them.
        let converted =
            ["main/train/0000.parquet", "main/test/0000.parquet", "other/train/0000.parquet"];
        let (train, test) = (Some(Set::Train), Some(Set::Test));
        assert_chosen("main", "", &converted, &[(train, converted[0]), (test, converted[1])]);
        assert_chosen("other/train", "", &converted, &[(train, converted[2])]);
        let error = chosen("train", "", &converted).unwrap_err().to_string();
        assert!(error.contains("as hf:a/b:main/train; there are main, other"), "{error}");
        let error = chosen("gamma", "", &files).unwrap_err().to_string();
        assert!(
            error.starts_with("hf:a/b:gamma: no file of gamma there; there are alpha"),
            "{error}"
        );
    }
}
