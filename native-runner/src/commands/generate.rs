//! `engram generate`: one prompt, continued.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use clap::Args;
use engram::generate::{Engine, GenerateConfig, Generated, Sampling};
use engram::text::Message;

use crate::adapter;
use crate::cli::Global;
use crate::interrupt;
use crate::memory;
use crate::session;
use crate::terminal::Terminal;

/// Options of `engram generate`.
#[derive(Debug, Args)]
pub struct Options {
    /// The prompt; standard input if it is missing or -
    prompt: Option<String>,

    /// Continue the bare prompt, without the model's chat template
    #[arg(long)]
    raw: bool,

    /// System message, in place of the template's own
    #[arg(long, conflicts_with = "raw")]
    system: Option<String>,

    /// A trained adapter: a folder (MLX's or PEFT's files), a .safetensors file in one, or a GGUF LoRA
    /// file; given several times, they are added up, each times the weight after its colon
    #[arg(long, value_name = "PATH[:WEIGHT]")]
    adapter_path: Vec<adapter::AdapterSpec>,

    #[command(flatten)]
    decoding: DecodingOptions,
}

/// How to decode: shared by `generate` and `chat`.
#[derive(Debug, Args)]
pub struct DecodingOptions {
    /// Most new tokens [default: 256, or what the context has room for]
    #[arg(long)]
    pub max_new_tokens: Option<usize>,
    /// 0 takes the most likely token, higher is more varied [default: 0; chat: 0.7]
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Keep the fewest tokens whose probabilities add up to this
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0)]
    pub top_p: f32,
    /// Keep tokens at least this times as likely as the most likely
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0)]
    pub min_p: f32,
    /// Above 1 makes tokens of the context less likely
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// End the answer at this text; may be given several times
    #[arg(long)]
    pub stop: Vec<String>,
}

const MAX_NEW_TOKENS: usize = 256;

impl DecodingOptions {
    /// The library's words for them.
    pub fn config(&self, default_temperature: f32) -> GenerateConfig {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(default_temperature),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed,
        };
        let max_new_tokens = self.max_new_tokens.unwrap_or(MAX_NEW_TOKENS);
        GenerateConfig { max_new_tokens, sampling, stop: self.stop.clone() }
    }
}

pub const EXAMPLES: &str = "\
Examples:
  engram generate \"What is the capital of France?\"
  engram generate --raw \"for i in range(\" --max-new-tokens 20
  engram generate --temperature 0.8 --top-p 0.95 --seed 7 \"Tell me a story.\"
  git diff | engram generate --system \"Summarise the change in one line.\"";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let prompt = match options.prompt.as_deref() {
        None | Some("-") => read_stdin()?,
        Some(prompt) => prompt.to_owned(),
    };
    let mut config = options.decoding.config(0.0);
    config.sampling.check()?;
    let engine = session::load_engine(global)?;
    let ids = if options.raw {
        engine.tokenizer().encode(&prompt, true)?
    } else {
        let system = options.system.iter().map(|text| Message::new("system", text));
        engine.encode_chat(&system.chain([Message::new("user", prompt)]).collect::<Vec<_>>())?
    };
    let adapter = adapter::load(&engine, &options.adapter_path)?;
    let mut decoder = engine.decoder(adapter.as_ref())?;
    if options.decoding.max_new_tokens.is_none() {
        let room = decoder.limit().saturating_sub(ids.len());
        config.max_new_tokens = config.max_new_tokens.min(room.max(1));
    }
    let _deferred = interrupt::defer();
    let mut print = print_text;
    let answer = engine.generate(&mut decoder, &ids, &config, &session::clock, &mut print);
    let answer = pollster::block_on(answer)?;
    writeln!(std::io::stdout()).context("standard output")?;
    print_statistics(Terminal::new(global), &engine, &answer);
    if interrupt::requested() { Err(interrupt::Interrupted.into()) } else { Ok(()) }
}

/// Writes a piece of an answer as soon as it comes; Ctrl-C or a closed pipe ends the answer.
pub fn print_text(text: &str) -> ControlFlow<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if written.is_err() || interrupt::requested() {
        return ControlFlow::Break(());
    }
    ControlFlow::Continue(())
}

/// What the answer cost, on stderr.
pub fn print_statistics(terminal: Terminal, engine: &Engine, answer: &Generated) {
    let timing = &answer.timing;
    let decode = match timing.decode_rate() {
        Some(rate) => format!("decode {} tokens, {rate:.1} tokens/s", timing.decoded_tokens),
        None => "nothing decoded after the first token".to_owned(),
    };
    if answer.tokens.is_empty() && timing.first_token_seconds == 0.0 {
        return terminal.note(format_args!("prompt {} tokens, no new ones", timing.prompt_tokens));
    }
    let memory = memory::peak(engine).map_or(String::new(), |peak| format!(" · {peak}"));
    terminal.note(format_args!(
        "prompt {} tokens, {:.1} tokens/s · first token after {:.2} s · {decode}{memory}",
        timing.prompt_tokens,
        timing.prefill_rate(),
        timing.first_token_seconds,
    ));
}

fn read_stdin() -> Result<String> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("prompt, ended by Ctrl-D:");
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).context("standard input")?;
    Ok(text.trim_end_matches('\n').to_owned())
}
