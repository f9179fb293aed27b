//! From a prompt's tokens to streamed text.

use std::ops::ControlFlow;

use super::decoder::Decoder;
use super::engine::Engine;
use super::sampling::Sampling;
use crate::text::{StopText, TextStream};
use crate::{Error, Result};

/// Most tokens decoded in one submit: enough to hide the read-back, few enough to stream.
const TOGETHER: usize = 8;
/// Longest that the text may stand still for that, unless a single token takes longer.
const STILL_SECONDS: f64 = 0.25;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateConfig {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
}

impl Default for GenerateConfig {
    /// Greedy, 256 tokens, no stop texts.
    fn default() -> Self {
        Self { max_new_tokens: 256, sampling: Sampling::default(), stop: Vec::new() }
    }
}

/// Why an answer ended; OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token or a stop text.
    Stop,
    /// [`GenerateConfig::max_new_tokens`].
    Length,
    /// The caller's callback said so.
    Cancelled,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The text, without template tokens.
    pub text: String,
    /// Its tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// How long it took.
    pub timing: Timing,
}

/// Seconds on the caller's clock, and what was done in them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timing {
    /// Prompt tokens that were computed (those in the cache are not).
    pub prompt_tokens: usize,
    /// From the call to the first token.
    pub first_token_seconds: f64,
    /// Tokens decoded after the first.
    pub decoded_tokens: usize,
    /// From the first token to the last.
    pub decode_seconds: f64,
}

impl Timing {
    /// Prompt tokens per second, the first new token included in the time.
    pub fn prefill_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.first_token_seconds
    }

    /// Decoded tokens per second; none if there was only one token.
    pub fn decode_rate(&self) -> Option<f64> {
        (self.decoded_tokens > 0).then(|| self.decoded_tokens as f64 / self.decode_seconds)
    }
}

impl Engine {
    /// Continues `prompt`, handing text to `on_text` as it becomes certain.
    ///
    /// `clock` gives seconds from any fixed start. The decoder keeps the prompt and the answer, so
    /// that a next prompt that begins with them costs only what is new.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`] if prompt and answer can't fit, before anything is computed;
    /// bad sampling settings; what the device reports.
    pub async fn generate(
        &self,
        decoder: &mut Decoder,
        prompt: &[u32],
        config: &GenerateConfig,
        clock: &dyn Fn() -> f64,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated> {
        let limit = decoder.limit();
        let needed = prompt.len().saturating_add(config.max_new_tokens);
        if needed > limit {
            return Err(Error::ContextOverflow { needed, limit });
        }
        decoder.set_sampling(&config.sampling)?;
        let mut picker = Picker { ahead: Vec::new(), token_seconds: 0.0, clock };
        let mut answer = Answer {
            stream: TextStream::new(&self.tokenizer().clone(), true),
            stop: StopText::new(config.stop.iter().cloned())?,
            text: String::new(),
            tokens: Vec::new(),
        };
        let ends = self.end_tokens();
        let started = clock();
        let mut timing = Timing { prompt_tokens: decoder.prefill(prompt)?, ..Default::default() };
        let mut first_token_at = started;
        let mut finish_reason = FinishReason::Length;
        while answer.tokens.len() < config.max_new_tokens {
            let left = config.max_new_tokens - answer.tokens.len();
            let id = picker.next(decoder, answer.tokens.len(), left).await?;
            if answer.tokens.is_empty() {
                first_token_at = clock();
                timing.first_token_seconds = first_token_at - started;
            } else {
                timing.decoded_tokens += 1;
            }
            if ends.contains(&id) {
                finish_reason = FinishReason::Stop;
                break;
            }
            let (text, stopped) = answer.push(id)?;
            if !text.is_empty() && on_text(&text).is_break() {
                finish_reason = FinishReason::Cancelled;
                break;
            }
            if stopped {
                finish_reason = FinishReason::Stop;
                break;
            }
        }
        timing.decode_seconds = clock() - first_token_at;
        let rest = answer.finish();
        if !rest.is_empty() && finish_reason != FinishReason::Cancelled {
            // Nothing is left to break off.
            let _ = on_text(&rest);
        }
        // Tokens decoded ahead and not wanted.
        decoder.truncate(prompt.len() + answer.tokens.len());
        let Answer { text, tokens, .. } = answer;
        Ok(Generated { text, tokens, finish_reason, timing })
    }
}

/// Where the next token comes from: several that the device chose in one submit.
struct Picker<'a> {
    /// Those not yet handed out, last first.
    ahead: Vec<u32>,
    /// What a token of the last submit took.
    token_seconds: f64,
    clock: &'a dyn Fn() -> f64,
}

impl Picker<'_> {
    /// The next one of an answer that has `length` tokens and may get `left` more.
    async fn next(&mut self, decoder: &mut Decoder, length: usize, left: usize) -> Result<u32> {
        if length == 0 {
            // The prompt's own pick: nothing is decoded for it.
            return decoder.pick().await;
        }
        if self.ahead.is_empty() {
            // As many as the answer has already, so that at most half of what is decoded is beyond
            // its end.
            let in_time = (STILL_SECONDS / self.token_seconds) as usize;
            let room = decoder.limit() - decoder.history().len();
            let count = length.min(TOGETHER).min(in_time.max(1)).min(left).min(room);
            let began = (self.clock)();
            self.ahead = decoder.follow(count).await?;
            self.token_seconds = ((self.clock)() - began) / count as f64;
            // The first of them is the answer's last.
            self.ahead.reverse();
            self.ahead.pop();
        }
        self.ahead.pop().ok_or_else(|| Error::Gpu("no token was picked".into()))
    }
}

/// The text so far.
struct Answer {
    stream: TextStream,
    stop: StopText,
    text: String,
    tokens: Vec<u32>,
}

impl Answer {
    /// The text that `id` made certain, and whether a stop text ended it.
    fn push(&mut self, id: u32) -> Result<(String, bool)> {
        self.tokens.push(id);
        let piece = self.stream.push(id)?;
        let event = self.stop.push(&piece);
        self.text.push_str(&event.text);
        Ok((event.text, event.hit.is_some()))
    }

    fn finish(&mut self) -> String {
        let piece = self.stream.finish();
        let mut rest = self.stop.push(&piece).text;
        rest.push_str(&self.stop.finish());
        self.text.push_str(&rest);
        rest
    }
}
