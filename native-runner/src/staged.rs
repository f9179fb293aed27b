//! Folders that appear whole or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
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
        let shown = || target.display().to_string();
        ensure!(
            !target.exists() || target.is_dir(),
            "{}: not a folder; name another output folder",
            shown()
        );
        let target = std::path::absolute(target).with_context(shown)?;
        let parent = target.parent().unwrap_or(&target);
        std::fs::create_dir_all(parent).with_context(shown)?;
        let beside =
            tempfile::Builder::new().prefix(".engram-").tempdir_in(parent).with_context(shown)?;
        Ok(Self { beside, target, names: Vec::new() })
    }

    /// Adds a file.
    pub fn write(&mut self, name: impl Into<String>, content: impl AsRef<[u8]>) -> Result<()> {
        let name = name.into();
        std::fs::write(self.beside.path().join(&name), content)
            .with_context(|| self.target.join(&name).display().to_string())?;
        self.names.push(name);
        Ok(())
    }

    /// Moves the files to their place, in the order in which they were added.
    pub fn publish(self) -> Result<()> {
        std::fs::create_dir_all(&self.target).with_context(|| self.target.display().to_string())?;
        for name in &self.names {
            let to = self.target.join(name);
            std::fs::rename(self.beside.path().join(name), &to)
                .with_context(|| to.display().to_string())?;
        }
        Ok(())
    }
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
}
