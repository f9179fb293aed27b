//! `engram doctor`: whether the adapter computes what it should.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;
use engram::kernels::self_test::{self, Outcome};

use crate::cli::Global;
use crate::self_test::verdict;
use crate::session;

/// Options of `engram doctor`.
#[derive(Debug, Args)]
pub struct Options {}

pub const EXAMPLES: &str = "\
Every kernel runs on small inputs and is compared with a plain computation on the CPU. The exit code
is 2 if one differs. A short form of it runs by itself the first time that an adapter is used.

Examples:
  engram doctor
  engram doctor --adapter llvmpipe";

pub fn run(global: &Global, _: &Options) -> Result<()> {
    let context = session::open_device(global)?;
    let (adapter, limits) = (context.adapter(), context.limits());
    let mut out = std::io::stdout().lock();
    writeln!(out, "engram    {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "adapter   {} ({}, {})", adapter.name, adapter.backend, adapter.device_type)?;
    writeln!(out, "driver    {}", adapter.driver)?;
    writeln!(
        out,
        "limits    buffer {} MiB, storage binding {} MiB, {} storage buffers a stage, \
         {} invocations and {} KiB a workgroup",
        limits.max_buffer_size >> 20,
        limits.max_storage_buffer_binding_size >> 20,
        limits.max_storage_buffers_per_shader_stage,
        limits.max_compute_invocations_per_workgroup,
        limits.max_compute_workgroup_storage_size >> 10,
    )?;
    writeln!(out)?;
    let mut written = Ok(());
    let checks = self_test::thorough();
    let mut on_outcome = |outcome: &Outcome| {
        if written.is_ok() {
            written = write_row(&mut out, outcome);
        }
    };
    let outcomes = self_test::run(&context, &checks, &session::clock, &mut on_outcome);
    let outcomes = pollster::block_on(outcomes)?;
    written?;
    verdict(adapter, &outcomes)?;
    writeln!(out, "\nall {} checks passed: this adapter computes what it should", checks.len())?;
    Ok(())
}

fn write_row(out: &mut impl std::io::Write, outcome: &Outcome) -> std::io::Result<()> {
    let Outcome { name, result, seconds } = outcome;
    match result {
        Ok(()) => writeln!(out, "{name:<24} ok     {:>8.1} ms", seconds * 1e3),
        Err(error) => writeln!(out, "{name:<24} WRONG  {:>8.1} ms  {error}", seconds * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_kernel_stands_out() {
        let outcome = Outcome {
            name: "rope".into(),
            result: Err(engram::Error::Gpu("17 is not 18".into())),
            seconds: 0.25,
        };
        let mut row = Vec::new();
        write_row(&mut row, &outcome).unwrap();
        let row = String::from_utf8(row).unwrap();
        assert!(row.starts_with("rope ") && row.contains(" WRONG "), "{row}");
        assert!(row.contains("250.0 ms  GPU: 17 is not 18"), "{row}");
    }
}
