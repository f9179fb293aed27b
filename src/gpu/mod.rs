//! What knows wgpu and nothing of models: the device, its buffers, and recordings of dispatches.

mod buffer;
mod context;
mod recording;

pub use buffer::{Buffer, Memory};
pub use context::{Access, AdapterSummary, Context, ContextOptions, Kernel};
pub use recording::{Binding, Extent, Recorder, Recording, Step};
