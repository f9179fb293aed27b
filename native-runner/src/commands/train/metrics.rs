//! `metrics.jsonl`: a line for every report and every validation.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The file, open at its end.
pub struct Metrics {
    file: File,
    path: PathBuf,
}

impl Metrics {
    /// Begins a file, or goes on with one whose lines beyond iteration `keep` are dropped.
    pub fn open(path: &Path, keep: Option<usize>) -> Result<Self> {
        let shown = || path.display().to_string();
        let Some(keep) = keep else {
            return Ok(Self {
                file: File::create(path).with_context(shown)?,
                path: path.to_owned(),
            });
        };
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            other => other.with_context(shown)?,
        };
        let is_kept = |line: &&[u8]| {
            let entry = line.strip_suffix(b"\n").and_then(|l| serde_json::from_slice(l).ok());
            let iteration = entry.and_then(|entry: Value| entry["iteration"].as_u64());
            iteration.is_some_and(|i| i <= keep as u64)
        };
        let kept = text.split_inclusive(|&b| b == b'\n').take_while(is_kept).map(<[u8]>::len);
        // Cut, not written anew: at no moment are the kept lines away.
        let file = OpenOptions::new().create(true).append(true).open(path).with_context(shown)?;
        file.set_len(kept.sum::<usize>() as u64).with_context(shown)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens a file to add to all that is in it.
    pub fn append(path: &Path) -> Result<Self> {
        let shown = || path.display().to_string();
        let file = OpenOptions::new().create(true).append(true).open(path).with_context(shown)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends a line.
    pub fn write(&mut self, entry: &Value) -> Result<()> {
        // In one piece, so that a kill does not come in between.
        self.file
            .write_all(format!("{entry}\n").as_bytes())
            .with_context(|| self.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resumed_run_drops_what_it_will_write_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, None).unwrap();
        for i in 1..=3 {
            metrics.write(&json!({"iteration": i})).unwrap();
        }
        // A line that a kill cut off.
        write!(metrics.file, "{{\"iter").unwrap();
        let mut metrics = Metrics::open(&path, Some(2)).unwrap();
        metrics.write(&json!({"iteration": 3, "again": true})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"iteration\":1}\n{\"iteration\":2}\n{\"iteration\":3,\"again\":true}\n"
        );
    }
}
