//! A file as the library reads one.

use std::fs::File;
use std::future::ready;
use std::path::Path;

use engram::formats::{ByteSource, Reading};
use engram::{Error, Result};

/// A [`ByteSource`] over an open file, read at positions: nothing is held in memory.
pub struct FileSource {
    name: String,
    file: File,
    len: u64,
}

impl FileSource {
    /// Opens the file; its name in errors is its path.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|error| Error::format(&name, error.to_string()))?;
        if !metadata.is_file() {
            return Err(Error::format(name, "not a file"));
        }
        Ok(Self { name, file, len: metadata.len() })
    }
}

impl ByteSource for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> Reading<'a> {
        Box::pin(ready(self.read(offset, buffer)))
    }
}

impl FileSource {
    /// Fills `buffer` from the bytes at `offset`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(self.truncated(offset, buffer.len(), self.len));
        }
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            match read_some(&self.file, at, &mut buffer[filled..]) {
                // Somebody has cut the file since it was opened.
                Ok(0) => return Err(self.truncated(offset, buffer.len(), at)),
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::format(&self.name, error.to_string())),
            }
        }
        Ok(())
    }

    fn truncated(&self, offset: u64, wanted: usize, len: u64) -> Error {
        Error::format(
            &self.name,
            format!(
                "ends at byte {len}, before {wanted} bytes at {offset}; it is truncated, fetch it \
                 again"
            ),
        )
    }
}

#[cfg(unix)]
fn read_some(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_some(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_at_positions_and_names_the_truncated_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ten");
        std::fs::write(&path, b"0123456789").unwrap();
        let source = FileSource::open(&path).unwrap();
        assert_eq!(source.len(), 10);

        let mut buffer = [0; 4];
        source.read(6, &mut buffer).unwrap();
        assert_eq!(&buffer, b"6789");
        source.read(0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"0123");
        source.read(10, &mut []).unwrap();
        for offset in [7, 10, i64::MAX as u64, u64::MAX] {
            let error = source.read(offset, &mut buffer).unwrap_err().to_string();
            assert!(error.contains("ten: ends at byte 10"), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("missing")] {
            let error = FileSource::open(&path).err().unwrap().to_string();
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
    }
}
