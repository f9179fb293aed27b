//! How much memory the work took at most.

use std::fmt;

use engram::generate::{Engine, Model};

/// The most memory that was in use.
#[derive(Debug, Clone, Copy)]
pub struct Peak {
    /// Bytes.
    pub bytes: u64,
    what: &'static str,
}

impl Peak {
    /// What it is of.
    pub fn what(&self) -> String {
        format!("peak {}", self.what)
    }
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.1} MB", self.what(), self.bytes as f64 / 1e6)
    }
}

/// Of the engine's buffers on a GPU, of the whole program on the CPU, where the system tells.
pub fn peak(engine: &Engine) -> Option<Peak> {
    match engine.model() {
        Model::Gpu(gpu) => Some(Peak { bytes: gpu.context.memory().peak(), what: "GPU memory" }),
        #[cfg(feature = "burn")]
        Model::Burn(_) => resident().map(|bytes| Peak { bytes, what: "memory" }),
    }
}

/// Forgets the peak so far, where it is ours to forget.
pub fn reset_peak(engine: &Engine) {
    match engine.model() {
        Model::Gpu(gpu) => gpu.context.memory().reset_peak(),
        #[cfg(feature = "burn")]
        Model::Burn(_) => {}
    }
}

/// Linux's `VmHWM`: the most physical memory that the program had.
#[cfg(feature = "burn")]
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
