//! The command line.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use engram::formats::DType;
use engram::kernels::kv::KvType;

use crate::commands::{
    bench, chat, convert, data, demo, devices, doctor, eval, fetch, fuse, generate, inspect,
    logits, merge, pipeline, runs, sweep, train,
};
use crate::source::{ModelSpec, builtin};

/// Runs small language models and trains LoRA adapters on them, on the GPU that is there.
#[derive(Debug, Parser)]
#[command(name = "engram", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Model: a .gguf file, a folder with config.json, tokenizer.json and safetensors,
    /// hf:ORG/NAME[@REVISION][:FILE], or the built-in default
    #[arg(long, global = true, value_name = "MODEL", default_value = builtin::NAME)]
    pub model: ModelSpec,

    /// What computes: wgpu is our kernels on a GPU, burn is burn's tensors; auto takes a GPU where
    /// there is one, else burn on the CPU
    #[arg(long, global = true, value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,

    /// Where burn computes [default: cpu]
    #[arg(long, global = true, value_enum)]
    pub device: Option<DeviceChoice>,

    /// GPU adapter, by a part of its name or its index
    #[arg(long, global = true, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,

    /// The type of the model's matrices: at load, on the wgpu engine, or in the file that fuse or
    /// convert writes
    #[arg(long, global = true, value_name = "TYPE")]
    pub quantize: Option<Quantize>,

    /// What the cache of keys and values holds, on the wgpu engine
    #[arg(long, global = true, value_enum, value_name = "TYPE", default_value_t = CacheType::F16)]
    pub cache_type: CacheType,

    /// Take safe variants of the kernels, without trying at an adapter's first use which are fastest
    #[arg(long, global = true)]
    pub no_autotune: bool,

    /// Log more: -v what is done, -vv details
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Print results and errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// A GPU where there is one, else burn on the CPU
    Auto,
    /// Our kernels, on a GPU or a software adapter
    Wgpu,
    /// burn's tensors, weights in 32-bit floats
    Burn,
}

/// `--cache-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CacheType {
    /// 16-bit floats
    F16,
    /// 32-bit floats
    F32,
}

impl From<CacheType> for KvType {
    fn from(cache_type: CacheType) -> Self {
        match cache_type {
            CacheType::F16 => KvType::F16,
            CacheType::F32 => KvType::F32,
        }
    }
}

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The CPU, with SIMD and threads
    Cpu,
    /// A GPU, or a software adapter
    Wgpu,
}

/// `--quantize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Quantize {
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
    /// 8 bits
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits; embedding and head 8
    #[value(name = "q4_0")]
    Q4_0,
    /// 4 bits and a minimum, in files only; likewise the next three
    #[value(name = "q4_1")]
    Q4_1,
    /// 5 bits
    #[value(name = "q5_0")]
    Q5_0,
    /// 5 bits and a minimum
    #[value(name = "q5_1")]
    Q5_1,
    /// 16-bit floats with the range of 32
    Bf16,
}

impl Quantize {
    /// As it is written.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl TryFrom<Quantize> for engram::model::Quantize {
    type Error = anyhow::Error;

    fn try_from(quantize: Quantize) -> anyhow::Result<Self> {
        Ok(match quantize {
            Quantize::F32 => Self::F32,
            Quantize::F16 => Self::F16,
            Quantize::Q8_0 => Self::Q8_0,
            Quantize::Q4_0 => Self::Q4_0,
            other => anyhow::bail!(
                "--quantize {} is for files; at load there are f32, f16, q8_0 and q4_0",
                other.name()
            ),
        })
    }
}

impl From<Quantize> for DType {
    fn from(quantize: Quantize) -> Self {
        match quantize {
            Quantize::F32 => Self::F32,
            Quantize::F16 => Self::F16,
            Quantize::Bf16 => Self::BF16,
            Quantize::Q8_0 => Self::Q8_0,
            Quantize::Q4_0 => Self::Q4_0,
            Quantize::Q4_1 => Self::Q4_1,
            Quantize::Q5_0 => Self::Q5_0,
            Quantize::Q5_1 => Self::Q5_1,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a data set of patterns, or print what is in one
    #[command(after_help = data::EXAMPLES)]
    Data(data::Options),
    /// List the GPU adapters, the one that is taken first, and the CPU where burn can take it
    Devices(devices::Options),
    /// Test whether the adapter computes what it should
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Options),
    /// Measure how fast this machine loads, reads prompts, generates and trains
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Options),
    /// Continue a prompt, or answer it
    #[command(after_help = generate::EXAMPLES)]
    Generate(generate::Options),
    /// Talk with the model
    #[command(after_help = chat::EXAMPLES)]
    Chat(chat::Options),
    /// Train a LoRA adapter
    #[command(after_help = train::EXAMPLES)]
    Train(Box<train::Options>),
    /// List training runs, or compare some
    #[command(after_help = runs::EXAMPLES)]
    Runs(runs::Options),
    /// Train once for every combination of some settings
    #[command(after_help = sweep::EXAMPLES)]
    Sweep(sweep::Options),
    /// Join what the parts of an evaluation or of a sweep gave
    #[command(after_help = merge::EXAMPLES)]
    Merge(merge::Options),
    /// Compare the model and trained adapters on a test set
    #[command(after_help = eval::EXAMPLES)]
    Eval(eval::Options),
    /// Say what a file or folder holds: a model, an adapter, a checkpoint
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(inspect::Options),
    /// Write an adapter or a model in other files: MLX, PEFT, GGUF, safetensors
    #[command(after_help = convert::EXAMPLES)]
    Convert(convert::Options),
    /// Merge an adapter into the model's weights
    #[command(after_help = fuse::EXAMPLES)]
    Fuse(fuse::Options),
    /// Show answers of the model and of trained adapters side by side
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Options),
    /// Run the whole experiment: data, training, evaluation, demonstration
    #[command(after_help = pipeline::EXAMPLES)]
    Pipeline(pipeline::Options),
    /// Print what the model makes of each position of a text, for comparisons
    #[command(after_help = logits::EXAMPLES)]
    Logits(logits::Options),
    /// Download the model and print each file's sha256 and path
    #[command(after_help = fetch::EXAMPLES)]
    Fetch(fetch::Options),
}

const EXAMPLES: &str = "\
Examples:
  engram generate \"What is the capital of France?\"
  engram chat                                   talk with the built-in model
  engram pipeline                               data, training, evaluation, demonstration
  engram train --data FOLDER                    a LoRA adapter from your own data
  engram eval --data FOLDER --adapter-path adapters
  engram chat --model hf:HuggingFaceTB/SmolLM2-360M-Instruct --adapter-path adapters
  engram fuse --adapter-path adapters --out mine.gguf
  engram train --data FOLDER --adapter-type dora
  engram train --data FOLDER --engine burn      on the CPU; --adapter-type bottleneck too

Exit codes: 0 done, 2 an error (one line on stderr says which), 130 interrupted by Ctrl-C.
Environment: ENGRAM_CACHE is where the built-in model is kept; HF_HOME, HF_TOKEN and HF_ENDPOINT
are those of Hugging Face's own tools.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for arguments in
            [["engram", "--model", "a.gguf", "fetch"], ["engram", "fetch", "--model", "a.gguf"]]
        {
            let cli = Cli::try_parse_from(arguments).unwrap();
            assert_eq!(cli.global.model, ModelSpec::Path("a.gguf".into()));
        }
        let cli = Cli::try_parse_from(["engram", "fetch"]).unwrap();
        assert_eq!(cli.global.model, ModelSpec::Builtin);
    }

    #[test]
    fn a_malformed_model_is_a_usage_error() {
        let error = Cli::try_parse_from(["engram", "--model", "hf:a/b/c", "fetch"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("hf:ORG/NAME"), "{error}");
    }
}
