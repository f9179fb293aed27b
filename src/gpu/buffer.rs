//! Buffers that count their bytes.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

/// Bytes of GPU memory that a [`Context`](super::Context) holds in buffers.
#[derive(Debug, Default)]
pub struct Memory {
    now: Cell<u64>,
    peak: Cell<u64>,
    allocations: Cell<u64>,
}

impl Memory {
    /// Bytes held now.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// The most bytes held at once since the start or the last [`Self::reset_peak`].
    pub fn peak(&self) -> u64 {
        self.peak.get()
    }

    /// Buffers made so far.
    pub fn allocations(&self) -> u64 {
        self.allocations.get()
    }

    /// Starts the peak again from what is held now.
    pub fn reset_peak(&self) {
        self.peak.set(self.now.get());
    }

    fn add(&self, bytes: u64) {
        self.now.set(self.now.get() + bytes);
        self.peak.set(self.peak.get().max(self.now.get()));
        self.allocations.set(self.allocations.get() + 1);
    }
}

/// A shared handle of a GPU buffer; the memory is freed with the last handle.
#[derive(Debug, Clone)]
pub struct Buffer(Rc<Counted>);

#[derive(Debug)]
struct Counted {
    buffer: wgpu::Buffer,
    memory: Rc<Memory>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.memory.now.set(self.memory.now.get().saturating_sub(self.buffer.size()));
        // A page's garbage collector knows nothing of GPU memory. Work that is queued is done first.
        self.buffer.destroy();
    }
}

impl Buffer {
    pub(super) fn new(buffer: wgpu::Buffer, memory: Rc<Memory>) -> Self {
        memory.add(buffer.size());
        Self(Rc::new(Counted { buffer, memory }))
    }
}

impl Deref for Buffer {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.0.buffer
    }
}
