//! `engram fuse`: an adapter merged into the model's weights.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use engram::formats::DType;
use engram::model::AnyAdapter;

use crate::adapter;
use crate::cli::Global;
use crate::export::{Job, ModelFormat, parse_size};
use crate::session;
use crate::source;
use crate::terminal::Terminal;

/// Options of `engram fuse`.
#[derive(Debug, Args)]
pub struct Options {
    /// The adapter: a folder (MLX's or PEFT's files) or a GGUF LoRA file
    #[arg(long, value_name = "PATH")]
    adapter_path: PathBuf,

    /// The .gguf file or the folder to write
    #[arg(long, value_name = "PATH")]
    out: PathBuf,

    /// Most of a model's tensors in one safetensors file, such as 5GB; more go to further files, with
    /// an index, as transformers writes them
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_shard_size: Option<u64>,

    /// Which files to write [default: what --out ends in, else the model's own]
    #[arg(long)]
    format: Option<ModelFormat>,

    /// Write the weights as floats
    #[arg(long, value_name = "TYPE", conflicts_with = "quantize")]
    dequantize: Option<Float>,
}

/// `--dequantize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Float {
    /// 16-bit floats
    F16,
    /// 32-bit floats
    F32,
}

impl From<Float> for DType {
    fn from(float: Float) -> Self {
        match float {
            Float::F16 => Self::F16,
            Float::F32 => Self::F32,
        }
    }
}

pub const EXAMPLES: &str = "\
LoRA, rsLoRA, DoRA and full fine-tunings, in any layout. Every tensor keeps its type unless --quantize (f16, q8_0, q5_1,
q5_0, q4_1, q4_0, …) or --dequantize says otherwise; a K-quant that the adapter changes becomes q8_0,
and a quantised GGUF written as safetensors f16. What is quantised again is rounded again: --quantize
q8_0 loses less than q4_1.

Examples:
  engram fuse --adapter-path adapters --out mine.gguf
  engram fuse --adapter-path adapters --out mine.gguf --quantize q8_0
  engram fuse --adapter-path adapters --out mine --format safetensors --dequantize f32
  engram fuse --adapter-path adapters --out mine --model hf:HuggingFaceTB/SmolLM2-360M-Instruct
  engram chat --model mine.gguf";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let terminal = Terminal::new(global);
    let files = source::resolve(&global.model, terminal)?;
    let checkpoint = session::open_checkpoint(&files)?;
    let shown = options.adapter_path.display().to_string();
    let adapter = match adapter::read_for(&options.adapter_path, &checkpoint.config)? {
        AnyAdapter::Lora(adapter) => adapter,
        AnyAdapter::Named(named) => {
            bail!("{shown}: is a {} adapter, which is no change of weights to fuse", named.kind)
        }
    };
    adapter.check(&shown, &checkpoint.config)?;
    ensure!(!adapter.is_empty(), "{shown}: the adapter updates nothing");
    let quantize = global.quantize.map(DType::from);
    let job = Job {
        files: &files,
        checkpoint: &checkpoint,
        name: &global.model.name(),
        adapter: Some(&adapter),
        format: options.format.unwrap_or_else(|| ModelFormat::of(&options.out, &files)),
        dtype: options.dequantize.map(DType::from).or(quantize),
        max_shard_size: options.max_shard_size,
    };
    job.write(&options.out, terminal)
}
