//! A model with everything that turns text into its tokens and back.

use std::rc::Rc;

use serde_json::Value;

use super::decoder::Decoder;
use crate::data::tokens::Encode;
use crate::formats::{Checkpoint, TokenizerFile};
use crate::gpu::Context;
use crate::model::{Adapter, GpuLlama, Quantize};
use crate::ops::Parameter;
use crate::text::{ChatTemplate, LocalTime, Message, RenderOptions, Tokenizer};
use crate::{Error, Result};

/// Tokens that end an answer in the models of this architecture, whatever their config says.
const END_TOKENS: [&str; 7] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|end|>",
    "</s>",
];

/// A loaded model: weights on the GPU, tokenizer, chat template.
#[derive(Debug)]
pub struct Engine {
    context: Context,
    model: Rc<GpuLlama>,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// The clock for templates that ask for the date.
    now: Option<LocalTime>,
}

impl Engine {
    /// Loads `checkpoint` onto the device of `context`; see [`GpuLlama::to_gpu`].
    pub async fn load(
        context: &Context,
        checkpoint: &Checkpoint,
        quantize: Option<Quantize>,
        on_progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
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
        let model = GpuLlama::to_gpu(context, checkpoint, quantize, on_progress).await?;
        Ok(Self { context: context.clone(), model: Rc::new(model), tokenizer, template, now: None })
    }

    /// Tells templates that ask for it what time it is; the library has no clock.
    pub fn set_time(&mut self, now: LocalTime) {
        self.now = Some(now);
    }

    /// The device it is on.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The weights.
    pub fn model(&self) -> &Rc<GpuLlama> {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// A decoder with an empty cache, with or without an adapter.
    pub fn decoder(&self, adapter: Option<&Rc<Adapter<Parameter>>>) -> Result<Decoder> {
        Decoder::new(&self.context, &self.model, adapter)
    }

    /// The ids of a chat that asks for an answer.
    ///
    /// # Errors
    /// A model without a chat template, or what the template refuses.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.chat(messages, None, true)
    }

    /// Every token that ends an answer.
    pub fn end_tokens(&self) -> Vec<u32> {
        let mut ends = self.model.config.eos_token_ids.clone();
        let known = END_TOKENS.iter().filter_map(|token| self.tokenizer.token_id(token));
        ends.extend(known.filter(|&id| self.tokenizer.is_special(id)));
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

impl Encode for Engine {
    fn chat(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
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
        // The template writes the special tokens itself.
        self.tokenizer.encode(&template.render_with(messages, &options)?, false)
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, true)
    }

    fn eos(&self) -> Option<u32> {
        self.model.config.eos_token_ids.first().copied()
    }
}
