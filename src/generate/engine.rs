//! A model with everything that turns text into its tokens and back.

use std::ops::Range;
use std::rc::Rc;

use serde_json::Value;

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::model::{GpuModel, LoadedAdapter, Model};
use crate::Result;
#[cfg(feature = "burn")]
use crate::burn::{BurnModel, Device};
use crate::data::tokens::Encode;
use crate::formats::Checkpoint;
use crate::gpu::Context;
use crate::kernels::kv::KvType;
use crate::model::{AnyAdapter, GpuLlama, ModelConfig, Quantize};
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

/// A loaded model: weights on a device, tokenizer, chat template.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    encoder: Encoder,
    cache_type: KvType,
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
        let llama = GpuLlama::to_gpu(context, checkpoint, quantize, on_progress).await?;
        let model = Model::Gpu(GpuModel { context: context.clone(), llama: Rc::new(llama) });
        Ok(Self { model, encoder, cache_type: KvType::default() })
    }

    /// Loads `checkpoint` for burn; see [`BurnModel::load`].
    #[cfg(feature = "burn")]
    pub async fn load_burn(
        device: &Device,
        checkpoint: &Checkpoint,
        on_progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        let encoder = Encoder::new(checkpoint)?;
        let model = BurnModel::load(device, checkpoint, on_progress).await?;
        let (model, cache_type) = (Model::Burn(Rc::new(model)), KvType::default());
        Ok(Self { model, encoder, cache_type })
    }

    /// Tells templates that ask for it what time it is; the library has no clock.
    pub fn set_time(&mut self, now: LocalTime) {
        self.encoder.set_time(now);
    }

    /// What the caches of the decoders hold that are made from now on; half-precision floats, if
    /// this is never called. burn's hold what was computed in any case.
    pub fn set_cache_type(&mut self, cache_type: KvType) {
        self.cache_type = cache_type;
    }

    /// The weights.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// Puts an adapter on the device of the model; see [`Model::load_adapter`].
    pub fn load_adapter(&self, name: &str, adapter: &AnyAdapter) -> Result<LoadedAdapter> {
        self.model.load_adapter(name, adapter)
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
    pub fn decoder(&self, adapter: Option<&LoadedAdapter>) -> Result<Decoder> {
        Decoder::with_cache(&self.model, adapter, self.cache_type)
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
        let mut ends = self.config().eos_token_ids.clone();
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

    fn render(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.encoder.render(messages, tools, add_generation_prompt)
    }

    fn offsets(&self, rendered: &str) -> Result<Vec<(u32, Range<usize>)>> {
        self.encoder.offsets(rendered)
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.encoder.text(text)
    }

    fn eos(&self) -> Option<u32> {
        self.encoder.eos()
    }
}
