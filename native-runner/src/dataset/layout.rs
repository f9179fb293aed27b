//! Which file belongs to which set, by the names that Hugging Face's `datasets` looks for.

use std::path::Path;

use anyhow::{Result, bail};
use engram::data::file::EXTENSIONS;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// What is trained on.
    Train,
    /// What a run is validated on.
    Valid,
    /// What an adapter is evaluated on.
    Test,
}

impl Set {
    /// All of them, each at its own index.
    pub const ALL: [Set; 3] = [Set::Train, Set::Valid, Set::Test];

    /// Its name, MLX-LM's.
    pub fn name(self) -> &'static str {
        match self {
            Set::Train => "train",
            Set::Valid => "valid",
            Set::Test => "test",
        }
    }

    /// The set of a word.
    pub fn of_word(word: &str) -> Option<Set> {
        match word.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Set::Train),
            "valid" | "validation" | "val" | "dev" => Some(Set::Valid),
            "test" | "testing" | "eval" | "evaluation" => Some(Set::Test),
            _ => None,
        }
    }

    /// The set that a path below a data set's root names: in the file's name, or in a folder's.
    pub fn of_path(path: &str) -> Option<Set> {
        let named =
            |part: &str| part.split(|c: char| !c.is_ascii_alphanumeric()).find_map(Set::of_word);
        path.rsplit('/').find_map(named)
    }
}

/// Whether a file's name ends as one of the kinds that are read, and is not hidden.
pub fn is_data(path: &str) -> bool {
    if path.rsplit('/').next().is_some_and(|name| name.starts_with('.')) {
        return false;
    }
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        let extension = extension.to_ascii_lowercase();
        extension == "parquet" || EXTENSIONS.contains(&extension.as_str())
    })
}

/// Of the files of one set those to read: one of just the set's name stands alone, so that a
/// `train-old.jsonl` beside it is left. `path` is a file's below the root.
pub fn chosen<T>(files: Vec<T>, path: impl Fn(&T) -> &str) -> Result<Vec<T>> {
    let stem = |file: &T| path(file).rsplit_once('.').map_or("", |(stem, _)| stem).to_owned();
    let is_exact = |file: &T| {
        let stem = stem(file);
        Set::of_word(stem.rsplit('/').next().unwrap_or_default()).is_some()
    };
    let any_exact = files.iter().any(is_exact);
    let chosen: Vec<T> = files.into_iter().filter(|file| !any_exact || is_exact(file)).collect();
    for (i, file) in chosen.iter().enumerate() {
        if let Some(twin) = chosen[..i].iter().find(|twin| stem(twin) == stem(file)) {
            bail!("{} and {} are the same set; name the one to read", path(twin), path(file));
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_set() {
        for (path, set) in [
            ("train.jsonl", Some(Set::Train)),
            ("data/train-00000-of-00002.parquet", Some(Set::Train)),
            ("default/validation/0000.parquet", Some(Set::Valid)),
            ("train/my_dev.csv", Some(Set::Valid)),
            ("gsm8k_test.json", Some(Set::Test)),
            ("constrained.jsonl", None),
            ("alpaca.json", None),
        ] {
            assert_eq!(Set::of_path(path), set, "{path}");
        }
        for (path, is) in [
            ("a.JSONL", true),
            ("b/c.parquet", true),
            ("d.txt", false),
            ("csv", false),
            ("a/._b.csv", false),
        ] {
            assert_eq!(is_data(path), is, "{path}");
        }
    }

    #[test]
    fn an_exact_name_stands_alone() {
        let choose = |paths: &[&'static str]| chosen(paths.to_vec(), |path| path);
        let both = choose(&["train.jsonl", "train-old.jsonl"]).unwrap();
        assert_eq!(both, ["train.jsonl"]);
        let shards = ["train-0.parquet", "train-1.parquet"];
        assert_eq!(choose(&shards).unwrap(), shards);
        let error = choose(&["train.csv", "train.jsonl"]).unwrap_err().to_string();
        assert_eq!(error, "train.csv and train.jsonl are the same set; name the one to read");
    }
}
