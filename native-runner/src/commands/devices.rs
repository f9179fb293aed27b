//! `engram devices`: the adapters that can be chosen, and the CPU.

use std::io::Write as _;

use anyhow::{Result, ensure};
use engram::gpu::Context;

/// Options of `engram devices`.
#[derive(Debug, clap::Args)]
pub struct Options {}

pub fn run(_: &Options) -> Result<()> {
    let adapters = pollster::block_on(Context::adapters());
    let has_burn = cfg!(feature = "burn");
    ensure!(
        has_burn || !adapters.is_empty(),
        "no GPU adapter found; install a Vulkan driver (on Debian: mesa-vulkan-drivers)"
    );
    let mut out = std::io::stdout().lock();
    for (index, adapter) in adapters.iter().enumerate() {
        writeln!(
            out,
            "{index}: {} ({}, {}; {}), bindings up to {} MiB",
            adapter.name,
            adapter.backend,
            adapter.device_type,
            adapter.driver,
            adapter.max_storage_binding >> 20
        )?;
    }
    if has_burn {
        writeln!(out, "CPU, by --engine burn")?;
    }
    Ok(())
}
