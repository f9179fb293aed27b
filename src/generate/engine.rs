//! A model with everything that turns text into its tokens and back.

use std::rc::Rc;

use serde_json::Value;

use super::decoder::Decoder;
use super::encoder::Encoder;
use crate::Result;
use crate::data::tokens::Encode;
use crate::formats::Checkpoint;
use crate::gpu::Context;
use crate::model::{Adapter, GpuLlama, Quantize};
use crate::ops::GpuLora;
use crate::text::{LocalTime, Message, Tokenizer};

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
    encoder: Encoder,
}

impl Engine {
    /// Loads `checkpoint` onto the device of `context`; see [`GpuLlama::to_gpu`].
    pub async fn load(
        context: &Context,
        checkpoint: &Checkpoint,
        quantize: Option<Quantize>,
        on_progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        let encoder = Encoder::new(checkpoint)?;
        let model = GpuLlama::to_gpu(context, checkpoint, quantize, on_progress).await?;
        Ok(Self { context: context.clone(), model: Rc::new(model), encoder })
    }

    /// Tells templates that ask for it what time it is; the library has no clock.
    pub fn set_time(&mut self, now: LocalTime) {
        self.encoder.set_time(now);
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
        self.encoder.tokenizer()
    }

    /// Whether it has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.encoder.has_chat_template()
    }

    /// A decoder with an empty cache, with or without an adapter.
    pub fn decoder(&self, adapter: Option<&Rc<Adapter<GpuLora>>>) -> Result<Decoder> {
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
        let known = END_TOKENS.iter().filter_map(|token| self.tokenizer().token_id(token));
        ends.extend(known.filter(|&id| self.tokenizer().is_special(id)));
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
        self.encoder.chat(messages, tools, add_generation_prompt)
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.encoder.text(text)
    }

    fn eos(&self) -> Option<u32> {
        self.encoder.eos()
    }
}
