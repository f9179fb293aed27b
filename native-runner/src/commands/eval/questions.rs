//! The test set of a data folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engram::data::jsonl::{self, Record};
use engram::eval::Example;
use engram::eval::report::DatasetInfo;

use crate::source::checksum;

/// What is asked, and where it comes from.
pub struct Questions {
    /// At least one.
    pub examples: Vec<Example>,
    /// As the report names it.
    pub dataset: DatasetInfo,
}

/// Reads `data`, a file or a folder with `test.jsonl`, up to `limit` examples of it.
///
/// `trained_on` is the training set of the adapters, to count the examples that repeat it; without
/// it, `train.jsonl` of the same folder is, if there is one.
pub fn read(data: &Path, limit: Option<usize>, trained_on: Option<&Path>) -> Result<Questions> {
    let file = if data.is_dir() { data.join("test.jsonl") } else { data.to_owned() };
    let mut examples = Example::from_records(&file.display().to_string(), &records(&file)?)?;
    examples.truncate(limit.unwrap_or(usize::MAX));
    let beside = file.with_file_name("train.jsonl");
    let trained_on: Option<PathBuf> =
        trained_on.map(Path::to_owned).or_else(|| beside.exists().then_some(beside));
    let seen_in_training = match trained_on {
        Some(path) if path != file => Example::seen(&examples, &records(&path)?),
        _ => None,
    };
    let sha256 = Some(checksum::of_file(&file)?);
    let dataset = DatasetInfo { sha256, seen_in_training, ..DatasetInfo::named(short(&file)) };
    Ok(Questions { examples, dataset })
}

/// The records of a file of JSON lines.
pub fn records(file: &Path) -> Result<Vec<Record>> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).with_context(|| name.clone())?;
    Ok(jsonl::parse(&name, &bytes)?)
}

/// The file with its folder, without the path to that.
fn short(file: &Path) -> String {
    let mut parts = file.components().rev().take(2).collect::<Vec<_>>();
    parts.reverse();
    parts.iter().collect::<PathBuf>().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, pairs: &[(&str, &str)]) {
        let records: Vec<_> = pairs.iter().map(|(q, a)| Record::chat(q, a, None)).collect();
        std::fs::write(folder.join(name), jsonl::to_jsonl(&records)).unwrap();
    }

    #[test]
    fn a_folder_is_its_test_set_and_knows_what_was_trained_on() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        write(&folder, "test.jsonl", &[("Q: A?", "a"), ("Q: B?", "b"), ("Q: C?", "c")]);
        let questions = read(&folder, None, None).unwrap();
        assert_eq!(questions.dataset.seen_in_training, None);
        assert_eq!(questions.dataset.name, Path::new("data").join("test.jsonl").to_str().unwrap());

        // In other words; with another answer; not at all.
        write(&folder, "train.jsonl", &[("Tell me: Q: A?", "a"), ("Q: B?", "x"), ("Q: D?", "c")]);
        let questions = read(&folder, Some(2), None).unwrap();
        assert_eq!(questions.examples.len(), 2);
        assert_eq!(questions.dataset.seen_in_training, Some(1));

        write(root.path(), "other.jsonl", &[("Q: B?", "b"), ("Q: C?", "c")]);
        let other = root.path().join("other.jsonl");
        let questions = read(&folder.join("test.jsonl"), None, Some(&other)).unwrap();
        assert_eq!(questions.dataset.seen_in_training, Some(2));
    }
}
