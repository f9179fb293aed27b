//! `engram convert-adapter`: an adapter in the other library's files.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use engram::formats::adapter::{self as files, AdapterFiles, CONFIG_FILE, PeftOptions};
use engram::model::{AdapterTensors, AnyAdapter, ModelConfig};
use serde_json::{Map, Value};

use crate::adapter;
use crate::cli::Global;
use crate::session;
use crate::source;
use crate::terminal::Terminal;

/// Options of `engram convert-adapter`.
#[derive(Debug, Args)]
pub struct Options {
    /// Folder with the adapter (MLX's or PEFT's files)
    from: PathBuf,

    /// Folder for the result
    to: PathBuf,

    /// Whose files to write
    #[arg(long)]
    format: Format,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// adapters.safetensors, as mlx_lm.lora writes it
    Mlx,
    /// adapter_model.safetensors, as PEFT writes it
    Peft,
}

impl Format {
    /// The files of an adapter of a model of `config`, which goes by the name `base_model`.
    pub fn files(
        self,
        adapter: &AdapterTensors,
        config: &ModelConfig,
        base_model: &str,
    ) -> engram::Result<AdapterFiles> {
        match self {
            Format::Mlx => {
                let arguments = Map::from_iter([("model".to_owned(), base_model.into())]);
                files::write_mlx(adapter, config, &arguments)
            }
            Format::Peft => {
                let options = PeftOptions { base_model, ..PeftOptions::default() };
                files::write_peft(adapter, config, &options)
            }
        }
    }
}

pub const EXAMPLES: &str = "\
--model is the model that the adapter is for; its shape is checked.

Examples:
  engram convert-adapter adapters adapters-peft --format peft
  engram convert-adapter ORG-ADAPTER adapters-mlx --format mlx --model hf:ORG/MODEL";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let terminal = Terminal::new(global);
    let from = options.from.display();
    let adapter = match adapter::read_folder(&options.from)? {
        AnyAdapter::Lora(adapter) => adapter,
        AnyAdapter::Named(named) => {
            let kind = named.kind;
            bail!("{from}: is a {kind} adapter, which only PEFT's files hold; use it as it is")
        }
    };
    let same = options.to.exists() && options.to.canonicalize()? == options.from.canonicalize()?;
    ensure!(!same, "{}: the adapter is there; give another folder", options.to.display());
    let model = session::open_checkpoint(&source::resolve(&global.model, terminal)?)?;
    let base_model = base_model(&source::required(&options.from, CONFIG_FILE)?)?;
    let files = options.format.files(&adapter, &model.config, &base_model)?;
    adapter::write_folder(&options.to, &files.iter().collect::<Vec<_>>())
}

/// What an `adapter_config.json` calls its model, in either layout.
fn base_model(config_json: &[u8]) -> Result<String> {
    let config: Value = serde_json::from_slice(config_json).context(CONFIG_FILE)?;
    let name = ["base_model_name_or_path", "model"].iter().find_map(|key| config[key].as_str());
    Ok(name.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_keeps_its_name() {
        for config in [r#"{"base_model_name_or_path": "a/b"}"#, r#"{"model": "a/b"}"#] {
            assert_eq!(base_model(config.as_bytes()).unwrap(), "a/b");
        }
        assert_eq!(base_model(b"{}").unwrap(), "");
    }
}
