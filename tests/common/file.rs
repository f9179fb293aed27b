//! The model that a machine has as a file.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use engram::formats::{ByteSource, Checkpoint, Reading};

/// The model that the tests of a real model ask for.
pub fn real_model_path() -> PathBuf {
    let Some(path) = std::env::var_os("ENGRAM_MODEL") else {
        panic!("set ENGRAM_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf; scripts/test does");
    };
    path.into()
}

pub async fn open_real() -> Checkpoint {
    let source = FileSource::open(&real_model_path());
    Checkpoint::from_gguf(Box::new(source)).await.unwrap()
}

/// A file that is read where it is asked for, as the native runner does.
struct FileSource {
    name: String,
    bytes: u64,
    file: RefCell<File>,
}

impl FileSource {
    fn open(path: &Path) -> Self {
        let name = path.display().to_string();
        let file = File::open(path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = file.metadata().unwrap_or_else(|e| panic!("{name}: {e}")).len();
        Self { name, bytes, file: RefCell::new(file) }
    }
}

impl ByteSource for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> Reading<'a> {
        Box::pin(async move {
            let mut file = self.file.borrow_mut();
            file.seek(SeekFrom::Start(offset))?;
            Ok(file.read_exact(buffer)?)
        })
    }
}
