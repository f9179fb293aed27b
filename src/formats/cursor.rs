//! Reading a header front to back, without trusting any length in it.

use super::ByteSource;
use crate::{Error, Result};

/// Bytes of a file that are read first: all of most headers.
const FIRST: u64 = 1 << 20;

/// Parses the header of `source`, of which as much is read as `parse` asks for.
///
/// `parse` starts anew with more bytes until it no longer reaches beyond them, at most a few times:
/// each time there are at least twice as many.
pub(super) async fn read_header<T>(
    source: &dyn ByteSource,
    parse: impl Fn(&mut Cursor<'_>) -> Result<T>,
) -> Result<T> {
    let mut bytes = Vec::new();
    let mut wanted = FIRST;
    loop {
        let held = bytes.len();
        let size = wanted.max(2 * held as u64).min(source.len());
        let Ok(size) = usize::try_from(size) else {
            return Err(Error::format(source.name(), "has a header too large for this machine"));
        };
        bytes.resize(size, 0);
        source.read_at(held as u64, &mut bytes[held..]).await?;
        let mut cursor = Cursor {
            name: source.name(),
            file_size: source.len(),
            bytes: &bytes,
            position: 0,
            beyond: None,
        };
        let parsed = parse(&mut cursor);
        match cursor.beyond {
            Some(end) => wanted = end,
            None => return parsed,
        }
    }
}

/// A position in a file of which the first bytes are in memory.
pub(super) struct Cursor<'a> {
    name: &'a str,
    file_size: u64,
    bytes: &'a [u8],
    position: u64,
    /// Where a read ended that the file has room for and `bytes` has not.
    beyond: Option<u64>,
}

impl<'a> Cursor<'a> {
    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    pub(super) fn file_size(&self) -> u64 {
        self.file_size
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// An error about this file.
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::format(self.name, problem)
    }

    /// `count` as a length, if that many items of at least `least` bytes can still follow: checked
    /// before anything is allocated for them.
    pub(super) fn count(&self, count: u64, least: u64, what: &str) -> Result<usize> {
        let left = self.file_size.saturating_sub(self.position);
        let fits = count.checked_mul(least).is_some_and(|bytes| bytes <= left);
        usize::try_from(count).ok().filter(|_| fits).ok_or_else(|| {
            self.error(format!(
                "ends at byte {}, before {count} {what} at byte {}; it is truncated or damaged, \
                 fetch it again",
                self.file_size, self.position
            ))
        })
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: u64, what: &str) -> Result<Vec<u8>> {
        let count = self.count(count, 1, what)?;
        let mut out = vec![0; count];
        self.fill(&mut out)?;
        Ok(out)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.count(N as u64, 1, what)?;
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads bytes that [`Self::count`] has found to be there.
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        let end = self.position + out.len() as u64;
        let start = usize::try_from(self.position).ok();
        let found = start.and_then(|start| self.bytes.get(start..)?.get(..out.len()));
        let Some(found) = found else {
            self.beyond = Some(end);
            return Err(self.error("has a longer header than was read"));
        };
        out.copy_from_slice(found);
        self.position = end;
        Ok(())
    }
}
