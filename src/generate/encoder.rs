//! Text and chats to a model's token ids: what of a model needs no GPU.

use std::ops::Range;

use serde_json::Value;

use crate::data::tokens::Encode;
use crate::formats::{Checkpoint, TokenizerFile};
use crate::text::{ChatTemplate, LocalTime, Message, RenderOptions, Tokenizer};
use crate::{Error, Result};

/// A model's tokenizer, chat template and end token.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos: Option<u32>,
    /// The clock for templates that ask for the date.
    now: Option<LocalTime>,
}

impl Encoder {
    /// Those of `checkpoint`, whose weights are not read.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let tokenizer = match &checkpoint.tokenizer {
            TokenizerFile::Json(json) => Tokenizer::from_json(checkpoint.name(), json)?,
            TokenizerFile::Gguf(metadata) => Tokenizer::from_gguf(metadata)?,
        };
        let template = match &checkpoint.chat_template {
            None => None,
            Some(source) => Some(ChatTemplate::new(
                checkpoint.name(),
                source,
                checkpoint.bos_token.as_deref(),
                checkpoint.eos_token.as_deref(),
            )?),
        };
        let eos = checkpoint.config.eos_token_ids.first().copied();
        Ok(Self { tokenizer, template, eos, now: None })
    }

    /// Tells templates that ask for it what time it is; the library has no clock.
    pub fn set_time(&mut self, now: LocalTime) {
        self.now = Some(now);
    }

    /// Whether there is a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

impl Encode for Encoder {
    fn chat(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        // The template writes the special tokens itself.
        self.tokenizer.encode(&self.render(messages, tools, add_generation_prompt)?, false)
    }

    fn render(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let Some(template) = &self.template else {
            return Err(Error::invalid(
                "the model has no chat template; use a raw prompt, or a model with one",
            ));
        };
        let options = RenderOptions {
            add_generation_prompt,
            tools: tools.map(<[Value]>::to_vec),
            now: self.now,
            ..Default::default()
        };
        template.render_with(messages, &options)
    }

    fn offsets(&self, rendered: &str) -> Result<Vec<(u32, Range<usize>)>> {
        self.tokenizer.encode_with_offsets(rendered)
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, true)
    }

    fn eos(&self) -> Option<u32> {
        self.eos
    }
}
