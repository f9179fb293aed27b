//! `engram logits`: the model's raw output, to compare it with another program's.

use std::io::Write as _;

use anyhow::{Result, ensure};
use clap::Args;
use engram::generate::Engine;
use serde_json::json;

use crate::adapter;
use crate::cli::Global;
use crate::session;

/// Options of `engram logits`.
#[derive(Debug, Args)]
pub struct Options {
    /// Token ids, with commas between them
    #[arg(long, value_name = "ID,…", value_delimiter = ',', required = true)]
    ids: Vec<u32>,

    /// A trained adapter: a folder (MLX's or PEFT's files), a .safetensors file in one, or a GGUF LoRA
    /// file; given several times, they are added up, each times the weight after its colon
    #[arg(long, value_name = "PATH[:WEIGHT]")]
    adapter_path: Vec<adapter::AdapterSpec>,

    /// All logits, as {"logits": [[one for each id of the vocabulary] for each token]}
    #[arg(long)]
    json: bool,
}

pub const EXAMPLES: &str = "\
Without --json it prints, for each token, the five most likely next ones and their logits.

Examples:
  engram logits --ids 504,3575,282
  engram logits --ids 504,3575,282 --adapter-path adapters --json > logits.json";

/// Next tokens that are shown.
const SHOWN: usize = 5;

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let engine = session::load_engine(global)?;
    let adapter = adapter::load(&engine, &options.adapter_path)?;
    let logits = pollster::block_on(engine.logits_all(&options.ids, adapter.as_ref()))?;
    let vocab = engine.config().vocab_size;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if options.json {
        ensure!(logits.iter().all(|l| l.is_finite()), "the logits are not finite");
        let rows: Vec<&[f32]> = logits.chunks_exact(vocab).collect();
        writeln!(out, "{}", json!({ "logits": rows }))?;
    } else {
        for (id, row) in options.ids.iter().zip(logits.chunks_exact(vocab)) {
            writeln!(out, "{}", line(&engine, *id, row)?)?;
        }
    }
    Ok(out.flush()?)
}

/// A token and what is most likely to follow it.
fn line(engine: &Engine, id: u32, logits: &[f32]) -> Result<String> {
    let text =
        |id: u32| Ok::<_, engram::Error>(format!("{:?}", engine.tokenizer().decode(&[id], false)?));
    let mut line = format!("{id} {}:", text(id)?);
    for next in most_likely(logits) {
        line += &format!(" {:.3} {next} {},", logits[next as usize], text(next)?);
    }
    Ok(line.trim_end_matches(',').to_owned())
}

/// The ids of the largest logits, the largest first.
fn most_likely(logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..).take(logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    ids.truncate(SHOWN);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first() {
        assert_eq!(most_likely(&[0.0, 3.0, -1.0, 2.0, 9.0, 1.0, 2.5]), [4, 1, 6, 3, 5]);
        assert_eq!(most_likely(&[1.0, 2.0]), [1, 0]);
    }
}
