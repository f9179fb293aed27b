//! `engram fetch`: the model's files, on this machine.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;

use crate::cli::Global;
use crate::source::{self, checksum};
use crate::terminal::Terminal;

/// Options of `engram fetch`.
#[derive(Debug, Args)]
pub struct Options {}

pub const EXAMPLES: &str = "\
The output is that of sha256sum: the sum, two spaces, the path.

Examples:
  engram fetch
  engram fetch --model hf:HuggingFaceTB/SmolLM2-135M-Instruct
  engram fetch --model hf:ORG/NAME@main:model.Q8_0.gguf
  engram fetch | sha256sum --check";

pub fn run(global: &Global, _: &Options) -> Result<()> {
    let terminal = Terminal::new(global);
    let model = source::resolve(&global.model, terminal)?;
    let mut out = std::io::stdout().lock();
    for path in model.paths()? {
        writeln!(out, "{}  {}", checksum::of_file(&path)?, path.display())?;
    }
    Ok(())
}
