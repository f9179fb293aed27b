//! `engram demo`: what the adapter changed, prompt by prompt.

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, value_parser};
use console::Term;
use engram::data::patterns;
use engram::data::split::{self, SplitConfig, build};
use engram::eval::{Candidate as _, EngineCandidate, EvalPrompt, Example, PromptForm};

use super::eval;
use crate::adapter::Blend;
use crate::cli::Global;
use crate::session;
use crate::terminal::Terminal;
use crate::terminal::columns::{labelled, side_by_side};

/// Options of `engram demo`.
#[derive(Debug, Args)]
pub struct Options {
    /// A trained adapter (a folder or a GGUF LoRA file), shown beside the model alone, or several
    /// added up, each times its weight: a:0.7,b:0.3; may be given several times
    #[arg(long, value_name = "PATH[:WEIGHT],...", required = true)]
    adapter_path: Vec<Blend>,

    /// Name of an adapter, in their order; else that of its folder
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,

    /// Show some prompts of the data set instead of asking for yours
    #[arg(long)]
    quick: bool,

    /// Take the prompts of --quick from this test set instead of our own
    #[arg(long, value_name = "FOLDER|FILE", requires = "quick")]
    data: Option<PathBuf>,

    /// Continue the bare prompt, without the model's chat template
    #[arg(long)]
    raw: bool,

    /// Longest answer, tokens
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..))]
    max_new_tokens: u32,
}

pub const EXAMPLES: &str = "\
Examples:
  engram demo --adapter-path adapter
  engram demo --adapter-path adapter --quick
  engram demo --adapter-path adapter < prompts.txt";

/// Prompts of `--quick`.
const QUICK_PROMPTS: usize = 5;

pub fn run(global: &Global, options: &Options) -> Result<()> {
    let named = eval::names(&options.adapter_path, &options.name)?;
    let prompts = match (options.quick, &options.data) {
        (false, _) => None,
        (true, None) => Some(held_out(QUICK_PROMPTS)?),
        (true, Some(data)) => {
            let source = eval::questions::Source::path(data);
            Some(source.read(Some(QUICK_PROMPTS), None, Terminal::new(global))?.examples)
        }
    };
    let engine = session::load_engine(global)?;
    let mut show = Show {
        candidates: eval::candidates(&engine, &named)?,
        form: if options.raw { PromptForm::Raw } else { PromptForm::Chat },
        max_new_tokens: options.max_new_tokens as usize,
    };
    match prompts {
        Some(prompts) => prompts.iter().try_for_each(|example| show.example(example)),
        None => show.typed(),
    }
}

/// The first `count` test prompts of the held-out split of our own patterns.
pub fn held_out(count: usize) -> Result<Vec<Example>> {
    let config = SplitConfig { protocol: split::Protocol::HeldOut, ..SplitConfig::default() };
    let mut test = build(&patterns::read(&patterns::BUNDLED)?, &config)?.test;
    test.truncate(count);
    Ok(Example::from_records("test", &test)?)
}

/// Candidates that answer side by side.
pub struct Show<'a> {
    /// The model alone, then with each adapter.
    pub candidates: Vec<EngineCandidate<'a>>,
    /// How they are asked.
    pub form: PromptForm,
    /// Longest answer.
    pub max_new_tokens: usize,
}

impl Show<'_> {
    /// Asks one question and prints it, what was expected, and every answer.
    pub fn example(&mut self, example: &Example) -> Result<()> {
        let Example { history, prompt, expected, .. } = example;
        write!(std::io::stdout(), "{}", labelled("prompt", prompt))?;
        write!(std::io::stdout(), "{}", labelled("expected", expected))?;
        self.answers(&EvalPrompt { history, text: prompt, form: self.form })
    }

    /// Asks what is typed, line by line, to the end of the input or an empty line.
    fn typed(&mut self) -> Result<()> {
        let stdin = std::io::stdin();
        let asks = stdin.is_terminal() && std::io::stderr().is_terminal();
        let mut asked = 0;
        loop {
            if asks {
                eprint!("prompt (empty to end)> ");
            }
            let mut line = String::new();
            let read = stdin.lock().read_line(&mut line)?;
            let text = line.trim_end_matches(['\n', '\r']);
            if read == 0 || (asks && text.trim().is_empty()) {
                break;
            }
            if text.trim().is_empty() {
                continue;
            }
            asked += 1;
            if !asks {
                write!(std::io::stdout(), "{}", labelled("prompt", text))?;
            }
            self.answers(&EvalPrompt { history: &[], text, form: self.form })?;
        }
        ensure!(asks || asked > 0, "no prompt on standard input; type some, or use --quick");
        Ok(())
    }

    fn answers(&mut self, prompt: &EvalPrompt<'_>) -> Result<()> {
        let mut answers = Vec::new();
        for candidate in &mut self.candidates {
            let answer = candidate.complete(prompt, self.max_new_tokens);
            let answer = pollster::block_on(answer)?;
            answers.push((candidate.name().to_owned(), answer.text.trim().to_owned()));
        }
        let texts: Vec<_> = answers.iter().map(|(name, text)| (&**name, &**text)).collect();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", side_by_side(&texts, width()))?;
        Ok(out.flush()?)
    }
}

/// The terminal's width; none if the output goes elsewhere.
fn width() -> Option<usize> {
    let terminal = Term::stdout();
    terminal.features().is_attended().then(|| usize::from(terminal.size().1))
}
