//! `engram convert`: an adapter or a model in other files.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use engram::formats::adapter::{
    self as files, CONFIG_FILE, PeftOptions, is_gguf_adapter, write_gguf, write_mlx, write_peft,
};
use engram::formats::{DType, Gguf};
use engram::model::{AdapterTensors, AnyAdapter, ModelConfig};
use serde_json::{Map, Value};

use crate::adapter;
use crate::cli::Global;
use crate::export::{Job, ModelFormat, is_gguf, parse_size};
use crate::session;
use crate::source::{self, FileSource, ModelSpec};
use crate::staged::Staged;
use crate::terminal::Terminal;

/// Options of `engram convert`.
#[derive(Debug, Args)]
pub struct Options {
    /// An adapter (a folder with MLX's or PEFT's files, a GGUF LoRA file) or a model (as for
    /// --model)
    #[arg(value_name = "SOURCE")]
    from: ModelSpec,

    /// What to write
    #[arg(long, value_name = "FORMAT")]
    to: Format,

    /// The file or folder to write
    #[arg(long, value_name = "PATH")]
    out: PathBuf,

    /// Most of a model's tensors in one safetensors file, such as 5GB; more go to further files, with
    /// an index, as transformers writes them
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_shard_size: Option<u64>,
}

/// `--to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A model or a LoRA adapter in one .gguf file, as llama.cpp reads it
    Gguf,
    /// A model's folder with model.safetensors, as transformers reads it
    Safetensors,
    /// An adapter's folder with adapters.safetensors, as mlx_lm.lora writes it
    Mlx,
    /// An adapter's folder with adapter_model.safetensors, as PEFT writes it
    Peft,
}

pub const EXAMPLES: &str = "\
Of an adapter --model is the model that it is for; its shape is checked. A GGUF adapter holds LoRA and
rsLoRA; DoRA and whole weights it can't, `engram fuse` merges them. --quantize (f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0)
is the type of a model's matrices; without it tensors keep theirs, and those of a quantised GGUF
become f16 in safetensors.

Examples:
  engram convert adapters --to peft --out adapters-peft
  engram convert adapters --to gguf --out lora.gguf      then: llama-cli -m MODEL --lora lora.gguf
  engram convert lora.gguf --to mlx --out adapters --model hf:ORG/MODEL
  engram convert hf:HuggingFaceTB/SmolLM2-135M-Instruct --to gguf --quantize q8_0 --out smol.gguf
  engram convert smol.gguf --to safetensors --quantize f32 --out smol
  engram convert big.gguf --to safetensors --max-shard-size 5GB --out big
  engram convert smol.gguf --to gguf --quantize q4_0 --out smaller.gguf";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    match &options.from {
        ModelSpec::Path(path) if is_adapter(path)? => convert_adapter(global, options, path),
        _ => convert_model(global, options),
    }
}

fn is_adapter(path: &Path) -> Result<bool> {
    if !adapter::is_gguf(path) {
        return Ok(path.join(CONFIG_FILE).exists());
    }
    let file = FileSource::open(path)?;
    Ok(is_gguf_adapter(&pollster::block_on(Gguf::parse(&file))?))
}

fn convert_model(global: &Global, options: &Options) -> Result<()> {
    let format = match options.to {
        Format::Gguf => ModelFormat::Gguf,
        Format::Safetensors => ModelFormat::Safetensors,
        Format::Mlx | Format::Peft => {
            bail!("{}: is a model; --to takes gguf or safetensors for it", options.from)
        }
    };
    let terminal = Terminal::new(global);
    let files = source::resolve(&options.from, terminal)?;
    let checkpoint = session::open_checkpoint(&files)?;
    let job = Job {
        files: &files,
        checkpoint: &checkpoint,
        name: &options.from.name(),
        adapter: None,
        format,
        dtype: global.quantize.map(DType::from),
        max_shard_size: options.max_shard_size,
    };
    job.write(&options.out, terminal)
}

fn convert_adapter(global: &Global, options: &Options, from: &Path) -> Result<()> {
    let (shown, out) = (from.display(), &options.out);
    let quantize = global.quantize.is_none();
    ensure!(quantize, "--quantize is of models; an adapter is written in f32");
    ensure!(
        options.max_shard_size.is_none(),
        "--max-shard-size is of models; an adapter is written in one file"
    );
    let same = out.exists() && out.canonicalize()? == from.canonicalize()?;
    ensure!(!same, "{}: the adapter is there; give another --out", out.display());
    let model = session::open_checkpoint(&source::resolve(&global.model, Terminal::new(global))?)?;
    let adapter = match adapter::read_for(from, &model.config)? {
        AnyAdapter::Lora(adapter) => adapter,
        AnyAdapter::Named(named) => {
            bail!(
                "{shown}: is a {} adapter, which only PEFT's files hold; use it as it is",
                named.kind
            )
        }
    };
    write_adapter(&adapter, &model.config, &base_model(from)?, options.to, out)?;
    let updates = adapter.iter().count();
    let outside = match adapter.outside_of_blocks() {
        None => String::new(),
        Some(_) => format!(", {} of embed_tokens and lm_head", adapter.modules().count() - updates),
    };
    let weights = match adapter.weights().len() {
        0 => String::new(),
        count => format!(", {count} weights"),
    };
    let out = out.display();
    Ok(writeln!(io::stdout(), "{out}: {updates} updates of linear layers{outside}{weights}")?)
}

/// Writes an adapter of a model of `config`, which goes by the name `base_model`.
fn write_adapter(
    adapter: &AdapterTensors,
    config: &ModelConfig,
    base_model: &str,
    format: Format,
    out: &Path,
) -> Result<()> {
    let files: files::AdapterFiles = match format {
        Format::Mlx => {
            let arguments = Map::from_iter([("model".to_owned(), base_model.into())]);
            write_mlx(adapter, config, &arguments)?
        }
        Format::Peft => {
            write_peft(adapter, config, &PeftOptions { base_model, ..PeftOptions::default() })?
        }
        Format::Gguf => {
            ensure!(is_gguf(out), "{}: name a file that ends in .gguf", out.display());
            let content = write_gguf(adapter, config, base_model)?;
            let (mut staged, name) = Staged::of_file(out)?;
            staged.write(name, content)?;
            return staged.publish();
        }
        Format::Safetensors => {
            bail!("an adapter in safetensors is MLX's or PEFT's: --to mlx or --to peft")
        }
    };
    adapter::write_folder(out, &files.iter().collect::<Vec<_>>())
}

/// What the adapter at `path` calls its model, in any layout.
fn base_model(path: &Path) -> Result<String> {
    if path.is_file() {
        let gguf = pollster::block_on(Gguf::parse(&FileSource::open(path)?))?;
        let name = gguf.metadata.string("general.base_model.0.name")?;
        return Ok(name.unwrap_or_default().to_owned());
    }
    name_in_config(&source::required(path, CONFIG_FILE)?)
}

fn name_in_config(config_json: &[u8]) -> Result<String> {
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
            assert_eq!(name_in_config(config.as_bytes()).unwrap(), "a/b");
        }
        assert_eq!(name_in_config(b"{}").unwrap(), "");
    }
}
