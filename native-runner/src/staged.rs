//! Folders that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use tempfile::TempDir;

/// Files that are written beside a folder and moved into it together, at the end. Dropped before
/// that, they leave nothing.
pub struct Staged {
    beside: TempDir,
    target: PathBuf,
    names: Vec<String>,
}

impl Staged {
    /// Begins what will be the content of `target`, which may exist: files of the same names will
    /// be replaced, others stay. Fails if nothing can be written there.
    pub fn new(target: &Path) -> Result<Self> {
        ensure!(
            !target.exists() || target.is_dir(),
            "{}: not a folder; name another output folder",
            target.display()
        );
        let failed = |error| cannot_write(target, error);
        let absolute = std::path::absolute(target).map_err(failed)?;
        let parent = absolute.parent().unwrap_or(&absolute);
        fs::create_dir_all(parent).map_err(failed)?;
        let beside = tempfile::Builder::new().prefix(".engram-").tempdir_in(parent);
        Ok(Self { beside: beside.map_err(failed)?, target: absolute, names: Vec::new() })
    }

    /// Begins the file `path` alone, and gives its name; its folder is made if it is not there.
    pub fn of_file(path: &Path) -> Result<(Self, String)> {
        let shown = path.display();
        ensure!(!path.is_dir(), "{shown}: a folder; name a file");
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| anyhow!("{shown}: not the name of a file"))?.to_owned();
        let failed = |error| cannot_write(path, error);
        let absolute = std::path::absolute(path).map_err(failed)?;
        let folder = absolute.parent().unwrap_or(&absolute).to_owned();
        fs::create_dir_all(&folder).map_err(failed)?;
        let beside = tempfile::Builder::new().prefix(".engram-").tempdir_in(&folder);
        Ok((Self { beside: beside.map_err(failed)?, target: folder, names: Vec::new() }, name))
    }

    /// Adds a file and sees it onto the disk.
    pub fn write(&mut self, name: impl Into<String>, content: impl AsRef<[u8]>) -> Result<()> {
        let mut file = self.create(name)?;
        file.write(content.as_ref())?;
        file.finish()
    }

    /// Adds a file that is written piece by piece.
    pub fn create(&mut self, name: impl Into<String>) -> Result<StagedFile> {
        let name = name.into();
        let shown = self.target.join(&name);
        let file = File::create(self.beside.path().join(&name));
        let file = file.map_err(|error| cannot_write(&shown, error))?;
        self.names.push(name);
        Ok(StagedFile { file, shown })
    }

    /// Moves the files to their place, in the order in which they were added.
    pub fn publish(self) -> Result<()> {
        fs::create_dir_all(&self.target).map_err(|error| cannot_write(&self.target, error))?;
        for name in &self.names {
            let to = self.target.join(name);
            fs::rename(self.beside.path().join(name), &to)
                .map_err(|error| cannot_write(&to, error))?;
        }
        Ok(())
    }
}

/// A file of [`Staged`] under way.
pub struct StagedFile {
    file: File,
    shown: PathBuf,
}

impl StagedFile {
    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> engram::Result<()> {
        self.file.write_all(bytes).map_err(|error| cannot_write(&self.shown, error))?;
        Ok(())
    }

    /// Sees it onto the disk.
    pub fn finish(self) -> Result<()> {
        Ok(self.file.sync_all().map_err(|error| cannot_write(&self.shown, error))?)
    }
}

/// Why nothing can be written to `path`, and what to do.
fn cannot_write(path: &Path, error: io::Error) -> engram::Error {
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
    engram::Error::format(path.display().to_string(), format!("{error}{remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_together_and_replace_older_ones() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/b");
        let mut staged = Staged::new(&target).unwrap();
        staged.write("one", "1").unwrap();
        assert!(!target.exists());
        staged.publish().unwrap();
        let mut staged = Staged::new(&target).unwrap();
        staged.write("one", "2").unwrap();
        staged.write("two", "2").unwrap();
        staged.publish().unwrap();
        assert_eq!(names(&target), ["one", "two"]);
        assert_eq!(std::fs::read(target.join("one")).unwrap(), b"2");
        assert_eq!(names(&root.path().join("a")), ["b"]);
    }

    #[test]
    fn what_is_not_published_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut staged = Staged::new(&root.path().join("out")).unwrap();
        staged.write("one", "1").unwrap();
        drop(staged);
        assert!(names(root.path()).is_empty());
        std::fs::write(root.path().join("file"), "").unwrap();
        assert!(Staged::new(&root.path().join("file")).is_err());
    }

    #[test]
    fn a_file_alone_is_staged_in_its_own_folder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/model.gguf");
        let (mut staged, name) = Staged::of_file(&path).unwrap();
        let mut file = staged.create(&name).unwrap();
        file.write(b"on").unwrap();
        file.write(b"e").unwrap();
        file.finish().unwrap();
        assert!(!path.exists());
        staged.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(names(&root.path().join("a")), ["model.gguf"]);
        assert!(Staged::of_file(root.path()).is_err());
    }

    #[test]
    fn a_full_disk_names_the_file_and_the_remedy() {
        let full = cannot_write(Path::new("a/b"), io::ErrorKind::StorageFull.into()).to_string();
        assert!(full.starts_with("a/b: ") && full.contains("make room"), "{full}");
    }
}
