//! Reading a header front to back, without trusting any length in it.

use super::ByteSource;
use crate::{Error, Result};

/// Bytes fetched at once; headers are millions of small fields.
const WINDOW: u64 = 1 << 16;

/// A position in a [`ByteSource`], with the bytes around it in memory.
pub(super) struct Cursor<'a> {
    source: &'a dyn ByteSource,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a dyn ByteSource) -> Self {
        Self { source, position: 0, window: Vec::new(), window_start: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// An error about this file.
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::format(self.source.name(), problem)
    }

    /// `count` as a length, if that many items of at least `least` bytes can still follow: checked
    /// before anything is allocated for them.
    pub(super) fn count(&self, count: u64, least: u64, what: &str) -> Result<usize> {
        let left = self.source.len().saturating_sub(self.position);
        let fits = count.checked_mul(least).is_some_and(|bytes| bytes <= left);
        usize::try_from(count).ok().filter(|_| fits).ok_or_else(|| {
            self.error(format!(
                "ends at byte {}, before {count} {what} at byte {}; it is truncated or damaged, \
                 fetch it again",
                self.source.len(),
                self.position
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
        let wanted = out.len() as u64;
        let held = |cursor: &Self| {
            let start = usize::try_from(cursor.position.checked_sub(cursor.window_start)?).ok()?;
            Some(start..start.checked_add(out.len())?)
        };
        if wanted > WINDOW {
            self.source.read_at(self.position, out)?;
        } else {
            if held(self).is_none_or(|range| self.window.get(range).is_none()) {
                let size = WINDOW.min(self.source.len() - self.position);
                self.window.resize(size as usize, 0);
                self.window_start = self.position;
                self.source.read_at(self.position, &mut self.window)?;
            }
            if let Some(found) = held(self).and_then(|range| self.window.get(range)) {
                out.copy_from_slice(found);
            }
        }
        self.position += wanted;
        Ok(())
    }
}
