//! What knows wgpu and nothing of models: the device, its buffers, and recordings of dispatches.

mod buffer;
mod context;
mod pipeline;
mod profile;
mod recording;
mod variant;

pub use buffer::{Buffer, Memory};
pub use context::{Access, AdapterSummary, Context, ContextOptions, Kernel};
pub use profile::KernelTime;
pub use recording::{Binding, Extent, Recorder, Recording, Step};
pub(crate) use variant::Lanes;
pub use variant::{Variant, Variants};
