//! Data sets in folders: `train.jsonl`, `valid.jsonl`, `test.jsonl`.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use engram::data::jsonl::{self, Record};
use engram::data::split::Splits;

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

/// Writes the three files into `folder`. They are written beside and moved into place when all
/// three are whole; files that are there are kept unless `force`.
pub fn write(folder: &Path, splits: &Splits, force: bool) -> Result<()> {
    let sets = [&splits.train, &splits.valid, &splits.test];
    let path = |set: &str| folder.join(format!("{set}.jsonl"));
    if let Some(there) = SETS.map(path).iter().find(|path| !force && path.exists()) {
        bail!("{}: is there already; --force writes over it", there.display());
    }
    let context = || folder.display().to_string();
    std::fs::create_dir_all(folder).with_context(context)?;
    let beside =
        tempfile::Builder::new().prefix(".data-").tempdir_in(folder).with_context(context)?;
    let temporary = |set: &str| beside.path().join(set);
    for (set, records) in SETS.iter().zip(sets) {
        write_file(&temporary(set), records).with_context(|| path(set).display().to_string())?;
    }
    for set in SETS {
        let path = path(set);
        std::fs::rename(temporary(set), &path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn write_file(path: &Path, records: &[Record]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(jsonl::to_jsonl(records).as_bytes())?;
    file.sync_all()
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
