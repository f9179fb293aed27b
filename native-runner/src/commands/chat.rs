//! `engram chat`: a conversation, a line a turn.

use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use clap::Args;
use engram::Error;
use engram::generate::{Decoder, Engine, FinishReason, GenerateConfig};
use engram::text::Message;

use super::generate::{DecodingOptions, print_statistics, print_text};
use crate::adapter;
use crate::cli::Global;
use crate::interrupt;
use crate::session;
use crate::terminal::Terminal;

/// Chats are livelier than the most likely answer; 0.7 is what most chat programs take.
const TEMPERATURE: f32 = 0.7;

/// Options of `engram chat`.
#[derive(Debug, Args)]
pub struct Options {
    /// System message, in place of the template's own
    #[arg(long)]
    system: Option<String>,

    /// A trained adapter: a folder (MLX's or PEFT's files), a .safetensors file in one, or a GGUF LoRA
    /// file; given several times, they are added up, each times the weight after its colon
    #[arg(long, value_name = "PATH[:WEIGHT]")]
    adapter_path: Vec<adapter::AdapterSpec>,

    #[command(flatten)]
    decoding: DecodingOptions,
}

pub const EXAMPLES: &str = "\
The temperature is 0.7 unless given. Each line is a turn; of the lines,
  /reset   forgets the conversation
  /exit    ends the chat, as Ctrl-D does
Ctrl-C ends the answer; pressed again, or between answers, it ends the program.
Piped lines are answered in turn, and an error ends the program.

Examples:
  engram chat
  engram chat --system \"Answer in one sentence.\" --temperature 0
  printf 'My name is Ada.\\nWhat is my name?\\n' | engram chat --quiet";

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let config = options.decoding.config(TEMPERATURE);
    config.sampling.check()?;
    let terminal = Terminal::new(global);
    let engine = session::load_engine(global)?;
    let adapter = adapter::load(&engine, &options.adapter_path)?;
    let mut chat = Chat {
        decoder: engine.decoder(adapter.as_ref())?,
        engine: &engine,
        config,
        messages: Vec::new(),
        turns: 0,
    };
    chat.reset(options.system.as_deref());
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        terminal.note("/reset forgets the conversation, /exit ends it; Ctrl-C ends an answer");
    }
    while let Some(line) = read_line(interactive)? {
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/reset" => chat.reset(options.system.as_deref()),
            text => match chat.turn(text, terminal) {
                Err(error) if interactive && is_of_this_turn(&error) => {
                    eprintln!("error: {error:#}");
                }
                outcome => outcome?,
            },
        }
        // Someone who types wants to go on; a script wants to end.
        if interrupt::take() && !interactive {
            return Err(interrupt::Interrupted.into());
        }
    }
    Ok(())
}

/// Whether the chat can go on after it.
fn is_of_this_turn(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(Error::ContextOverflow { .. } | Error::Invalid(_) | Error::Data { .. })
    )
}

/// The next line of standard input; none at its end.
fn read_line(interactive: bool) -> Result<Option<String>> {
    if interactive {
        // The answers alone go to standard output.
        eprint!("> ");
    }
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).context("standard input")?;
    if read == 0 && interactive {
        eprintln!();
    }
    Ok((read > 0).then_some(line))
}

/// The conversation so far.
struct Chat<'a> {
    engine: &'a Engine,
    /// Holds the keys and values of earlier turns, so that a turn costs only what is new.
    decoder: Decoder,
    config: GenerateConfig,
    messages: Vec<Message>,
    turns: u64,
}

impl Chat<'_> {
    fn reset(&mut self, system: Option<&str>) {
        self.messages = system.iter().map(|&text| Message::new("system", text)).collect();
        self.turns = 0;
    }

    /// Answers `text`. After an error the conversation is as it was before.
    fn turn(&mut self, text: &str, terminal: Terminal) -> Result<()> {
        let before = self.messages.len();
        self.messages.push(Message::new("user", text));
        let answer = self.answer(terminal).inspect_err(|_| self.messages.truncate(before))?;
        self.messages.push(Message::new("assistant", answer));
        Ok(())
    }

    fn answer(&mut self, terminal: Terminal) -> Result<String> {
        let ids = self.engine.encode_chat(&self.messages)?;
        let limit = self.decoder.limit();
        let room = limit.saturating_sub(ids.len());
        if room == 0 {
            let error = Error::ContextOverflow { needed: ids.len() + 1, limit };
            return Err(anyhow::Error::new(error).context("the conversation is full; try /reset"));
        }
        let mut config = self.config.clone();
        config.max_new_tokens = config.max_new_tokens.min(room);
        // Else every turn would draw the same numbers.
        config.sampling.seed = config.sampling.seed.wrapping_add(self.turns);
        self.turns += 1;

        let _deferred = interrupt::defer();
        let mut print = print_text as fn(&str) -> ControlFlow<()>;
        let (decoder, clock) = (&mut self.decoder, &session::clock);
        let answer = self.engine.generate(decoder, &ids, &config, clock, &mut print);
        let answer = pollster::block_on(answer)?;
        writeln!(std::io::stdout()).context("standard output")?;
        if answer.finish_reason == FinishReason::Length {
            let most = config.max_new_tokens;
            terminal.note(match room > most {
                true => format!("(cut after {most} tokens; --max-new-tokens allows more)"),
                false => format!("(the context of {limit} tokens is full; /reset empties it)"),
            });
        }
        print_statistics(terminal, self.engine, &answer);
        Ok(answer.text)
    }
}
