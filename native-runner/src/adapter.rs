//! Adapters in folders.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result, anyhow, ensure};
use engram::formats::adapter::{CONFIG_FILE, Layout, read};
use engram::generate::Engine;
use engram::model::{Adapter, AdapterTensors, GpuAdapter};
use engram::ops::Parameter;

use crate::source::{self, FileSource};

/// The adapter in `folder`, on the engine's device; none if there is no folder.
pub fn load(engine: &Engine, folder: Option<&Path>) -> Result<Option<Rc<Adapter<Parameter>>>> {
    let Some(folder) = folder else { return Ok(None) };
    let tensors = read_folder(folder)?;
    tensors.check(&folder.display().to_string(), &engine.model().config)?;
    Ok(Some(GpuAdapter::upload(engine.context(), &tensors)?.adapter))
}

/// The adapter in `folder`, in MLX's files or PEFT's.
pub fn read_folder(folder: &Path) -> Result<AdapterTensors> {
    ensure!(folder.is_dir(), "{}: no such folder; give one with an adapter", folder.display());
    let config = source::required(folder, CONFIG_FILE)?;
    let name = folder.join(CONFIG_FILE).display().to_string();
    let weights = folder.join(Layout::detect(&name, &config)?.weights_file());
    Ok(read(&name, &config, Box::new(FileSource::open(&weights)?))?)
}

/// Writes files, each a name and its content, into `folder`, which is made if it is not there.
///
/// All of them are on the disk before the first takes its place, so that whatever goes wrong
/// leaves the older files as they were; other files of the folder stay.
pub fn write_folder(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    let is_new = !folder.exists();
    fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
    let written = replace(folder, files);
    if written.is_err() && is_new {
        // Not to leave an empty folder; what fails here was told by the first failure.
        let _ = fs::remove_dir(folder);
    }
    written
}

fn replace(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    // In the folder itself: a rename does not leave its file system. Dropped, it is removed.
    let staging = tempfile::Builder::new().prefix(".writing-").tempdir_in(folder);
    let staging = staging.map_err(|error| cannot_write(folder, error))?;
    for (name, content) in files {
        write_synced(&staging.path().join(name), content)
            .map_err(|error| cannot_write(&folder.join(name), error))?;
    }
    for (name, _) in files {
        let path = folder.join(name);
        fs::rename(staging.path().join(name), &path).map_err(|error| cannot_write(&path, error))?;
    }
    staging.close().with_context(|| folder.display().to_string())
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn cannot_write(path: &Path, error: io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "; make room or choose another folder, nothing was replaced"
        }
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory => "; choose another folder",
        _ => "",
    };
    anyhow!("{}: {error}{remedy}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T>(result: Result<T>) -> String {
        format!("{:#}", result.err().unwrap())
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("runs/adapters");
        write_folder(&folder, &[("a", &b"1"[..]), ("b", b"2")]).unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        write_folder(&folder, &[("a", &b"one"[..]), ("b", b"two")]).unwrap();
        assert_eq!(names(&folder), ["a", "b", "notes.txt"]);
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"one");
        assert_eq!(fs::read(folder.join("b")).unwrap(), b"two");
    }

    #[test]
    fn a_failed_write_leaves_the_folder_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("adapters");
        write_folder(&folder, &[("a", &b"1"[..])]).unwrap();
        // The second file can't be made.
        let failed = write_folder(&folder, &[("a", &b"one"[..]), ("no/folder", b"two")]);
        assert!(error(failed).contains("no/folder: "));
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"1");
        assert_eq!(names(&folder), ["a"]);

        let new = root.path().join("new");
        assert!(write_folder(&new, &[("no/folder", &b"two"[..])]).is_err());
        assert!(!new.exists());
    }

    #[test]
    fn a_folder_that_can_not_be_is_one_clear_line() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let problem = error(write_folder(&file, &[("a", &b"1"[..])]));
        assert!(problem.ends_with("; choose another folder"), "{problem}");
        let full = cannot_write(Path::new("a"), io::ErrorKind::StorageFull.into()).to_string();
        assert!(full.contains("make room"), "{full}");
    }

    #[test]
    fn what_is_no_adapter_says_why() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        assert!(error(read_folder(&folder.join("no"))).contains("no: no such folder"));
        assert!(error(read_folder(folder)).contains("adapter_config.json: missing"));
        fs::write(folder.join(CONFIG_FILE), r#"{"peft_type":"LORA","r":1,"lora_alpha":1}"#)
            .unwrap();
        assert!(error(read_folder(folder)).contains("adapter_model.safetensors: "));
        fs::write(folder.join("adapter_model.safetensors"), "no").unwrap();
        assert!(error(read_folder(folder)).contains("adapter_model.safetensors: ends at byte 2"));
    }
}
