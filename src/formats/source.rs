//! Where bytes come from: a file, a browser's storage, or memory.

use std::future::{Future, ready};
use std::pin::Pin;

use crate::{Error, Result};

/// A read under way. It need not be `Send`: in a page everything runs on one thread.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Random access to the bytes of one file.
///
/// The library never opens a file itself: the native runner passes a file, a page passes a `Blob`,
/// which can only be read without blocking, a test passes [`Bytes`].
pub trait ByteSource {
    /// What errors call it: a path or a URL.
    fn name(&self) -> &str;
    /// Its size in bytes.
    fn len(&self) -> u64;
    /// Fills `buffer` from the bytes at `offset`; an error if they are not all there.
    fn read_at<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> Reading<'a>;
    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A [`ByteSource`] in memory.
pub struct Bytes {
    name: String,
    bytes: Vec<u8>,
}

impl Bytes {
    /// `bytes`, called `name` in errors.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

impl ByteSource for Bytes {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> Reading<'a> {
        Box::pin(ready(self.copy(offset, buffer)))
    }
}

impl Bytes {
    fn copy(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let found = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes.get(start..start.checked_add(buffer.len())?));
        let Some(found) = found else {
            return Err(Error::format(
                &self.name,
                format!(
                    "ends at byte {}, before {} bytes at {offset}; it is truncated, fetch it again",
                    self.bytes.len(),
                    buffer.len()
                ),
            ));
        };
        buffer.copy_from_slice(found);
        Ok(())
    }
}
