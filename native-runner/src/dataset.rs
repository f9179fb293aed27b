//! Data sets in folders: `train.jsonl`, `valid.jsonl`, `test.jsonl`.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use engram::data::jsonl::{self, Record};
use engram::data::split::Splits;

use crate::staged::Staged;

/// The files of a data set, without `.jsonl`.
pub const SETS: [&str; 3] = ["train", "valid", "test"];

/// The records of one set in `folder`; none if the file is not there.
pub fn read(folder: &Path, set: &str) -> Result<Option<Vec<Record>>> {
    let path = folder.join(format!("{set}.jsonl"));
    let name = path.display().to_string();
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(jsonl::parse(&name, &bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(name),
    }
}

/// Writes the three files into `folder`, all or none; files that are there are kept unless `force`.
pub fn write(folder: &Path, splits: &Splits, force: bool) -> Result<()> {
    let names = SETS.map(|set| format!("{set}.jsonl"));
    if let Some(there) = names.iter().find(|name| !force && folder.join(name).exists()) {
        bail!("{}: is there already; --force writes over it", folder.join(there).display());
    }
    let mut staged = Staged::new(folder)?;
    for (name, records) in names.into_iter().zip([&splits.train, &splits.valid, &splits.test]) {
        staged.write(name, jsonl::to_jsonl(records))?;
    }
    staged.publish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written_and_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let set = |text: &str| vec![Record::chat(text, "b", Some("c"))];
        let mut splits = Splits { train: set("1"), valid: set("2"), test: set("3") };
        write(&folder, &splits, false).unwrap();
        splits.test = set("4");
        let error = format!("{:#}", write(&folder, &splits, false).unwrap_err());
        assert!(error.contains("train.jsonl: is there already"), "{error}");
        assert_eq!(read(&folder, "test").unwrap(), Some(set("3")));
        write(&folder, &splits, true).unwrap();
        assert_eq!(read(&folder, "test").unwrap(), Some(set("4")));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "something was left");
        assert_eq!(read(&folder, "none").unwrap(), None);
    }
}
