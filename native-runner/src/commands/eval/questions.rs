//! The test set of a data folder.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use engram::data::record::{Features, Record};
use engram::eval::Example;
use engram::eval::report::DatasetInfo;

use crate::dataset::{self, DataSpec, Place, Set};
use crate::source::checksum;
use crate::terminal::Terminal;

/// What is asked, and where it comes from.
pub struct Questions {
    /// At least one.
    pub examples: Vec<Example>,
    /// As the report names it.
    pub dataset: DatasetInfo,
}

/// Where questions come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Files, or folders and data sets of the hub with a test set.
    pub data: Vec<DataSpec>,
    /// What their columns are called.
    pub features: Features,
}

impl Source {
    /// A file, or a folder with a test set.
    pub fn path(path: &Path) -> Self {
        Self { data: vec![DataSpec::Path(path.to_owned())], features: Features::default() }
    }

    /// Reads up to `limit` examples.
    ///
    /// `trained_on` is the training set of the adapters, to count the examples that repeat it;
    /// without it, the training set of the same folder is, if there is one.
    pub fn read(
        &self,
        limit: Option<usize>,
        trained_on: Option<&Path>,
        terminal: Terminal,
    ) -> Result<Questions> {
        let found = dataset::resolve(&self.data, Set::Test, terminal)?;
        let files = found.of(Set::Test);
        let names = self.data.iter().map(DataSpec::to_string).collect::<Vec<_>>().join(", ");
        ensure!(!files.is_empty(), "{names}: no test set in it");
        let mut examples = Vec::new();
        for file in dataset::read(files, &self.features, terminal)? {
            examples.append(&mut Example::from_file(&file)?);
        }
        examples.truncate(limit.unwrap_or(usize::MAX));
        let trained_on = match trained_on {
            Some(path) => vec![Place::Local(path.to_owned())],
            None => beside(files, found.of(Set::Train), terminal),
        };
        let trained_on = dataset::read(&trained_on, &self.features, terminal)?;
        let trained_on: Vec<Record> = trained_on.into_iter().flat_map(|f| f.records).collect();
        let seen_in_training = match trained_on.is_empty() {
            true => None,
            false => Example::seen(&examples, &trained_on),
        };
        let (name, sha256) = match files {
            [Place::Local(path)] => (short(path), Some(checksum::of_file(path)?)),
            [one] => (one.name(), Some(checksum::of_file(&one.fetch(terminal)?)?)),
            _ => (names, None),
        };
        let dataset = DatasetInfo { sha256, seen_in_training, ..DatasetInfo::named(name) };
        Ok(Questions { examples, dataset })
    }
}

/// The training set that stands beside the test set: in the data set, or in the file's folder.
fn beside(test: &[Place], train: &[Place], terminal: Terminal) -> Vec<Place> {
    let is_here = |places: &[Place]| places.iter().all(Place::is_here);
    if !train.is_empty() {
        // What is not here is not worth a download.
        return if is_here(train) { train.to_vec() } else { Vec::new() };
    }
    let [Place::Local(path)] = test else { return Vec::new() };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let found = dataset::resolve(&[DataSpec::Path(folder.to_owned())], Set::Train, terminal);
    let train = found.map(|found| found.of(Set::Train).to_vec()).unwrap_or_default();
    let is_other = |place: &Place| match place {
        Place::Local(other) => other.file_name() != path.file_name(),
        Place::Hub(_) | Place::Slice(..) => true,
    };
    if train.iter().all(is_other) { train } else { Vec::new() }
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
        std::fs::write(folder.join(name), engram::data::jsonl::to_jsonl(&records)).unwrap();
    }

    #[test]
    fn a_folder_is_its_test_set_and_knows_what_was_trained_on() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        write(&folder, "test.jsonl", &[("Q: A?", "a"), ("Q: B?", "b"), ("Q: C?", "c")]);
        let read = |path: &Path, limit, trained_on| {
            Source::path(path).read(limit, trained_on, Terminal::silent())
        };
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
