//! `engram inspect`: what a file or a folder holds.

mod adapter;
mod finding;
mod model;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use engram::formats::adapter::{CONFIG_FILE, is_gguf_adapter};
use engram::formats::{Gguf, Safetensors};
use serde_json::Value;

use self::finding::Finding;
use crate::source::{self, FileSource};

/// Options of `engram inspect`.
#[derive(Debug, Args)]
pub struct Options {
    /// Files or folders: models, adapters, a training's checkpoint
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    /// As JSON: a list with an object for each path
    #[arg(long)]
    json: bool,
}

pub const EXAMPLES: &str = "\
Reads headers and adapters, never a model's weights.

Examples:
  engram inspect model.gguf adapters lora.gguf
  engram inspect adapters/checkpoint.safetensors
  engram inspect --json model.gguf | jq '.[0].tensor_types'";

pub fn run(options: &Options) -> Result<()> {
    let found: Vec<Finding> =
        options.paths.iter().map(|path| inspect(path)).collect::<Result<_>>()?;
    let text = if options.json {
        let list: Vec<Value> = found.iter().map(Finding::json).collect();
        format!("{:#}\n", Value::from(list))
    } else {
        let mut text = String::new();
        for (i, finding) in found.iter().enumerate() {
            write!(text, "{}{}", if i > 0 { "\n" } else { "" }, finding.text())?;
        }
        text
    };
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

fn inspect(path: &Path) -> Result<Finding> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).with_context(|| format!("{shown}"))?;
    if metadata.is_dir() { inspect_folder(path) } else { inspect_file(path) }
}

fn inspect_folder(path: &Path) -> Result<Finding> {
    let has = |name: &str| path.join(name).is_file();
    if has(CONFIG_FILE) {
        return adapter::folder(path);
    }
    if has(source::WEIGHTS) || has(source::WEIGHTS_INDEX) {
        return model::folder(path);
    }
    let shown = path.display();
    match source::ggufs(path)?.as_slice() {
        [one] => inspect_file(one),
        [] => {
            bail!("{shown}: neither {CONFIG_FILE} nor {} nor a .gguf file in it", source::WEIGHTS)
        }
        several => bail!("{shown}: {} .gguf files in it, name one of them", several.len()),
    }
}

fn inspect_file(path: &Path) -> Result<Finding> {
    let file = FileSource::open(path)?;
    let mut magic = [0; 4];
    if file.read(0, &mut magic).is_ok() && &magic == b"GGUF" {
        let gguf = pollster::block_on(Gguf::parse(&file))?;
        return match is_gguf_adapter(&gguf) {
            true => adapter::gguf(path, file, &gguf),
            false => model::gguf(path, file, &gguf),
        };
    }
    let header = match pollster::block_on(Safetensors::parse(&file)) {
        Ok(header) => header,
        // What says in its name that it is one may well say what is wrong with it.
        Err(error) if path.extension().is_some_and(|end| end == "safetensors") => {
            return Err(error.into());
        }
        Err(_) => bail!("{}: neither GGUF nor safetensors", path.display()),
    };
    if adapter::is_checkpoint(&header) {
        return adapter::checkpoint(path);
    }
    Ok(model::safetensors(path, &header))
}
