//! A loaded model.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use js_sys::{Array, Function, Uint32Array};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use super::blob::ModelFiles;
use super::clock;
use super::support::{self, DeviceInfo};
use super::value::{NamedFile, call, from_js, to_js};
use super::variants::{self, Tuning};
use crate::formats::Bytes;
use crate::formats::adapter::{self, AdapterFiles, CONFIG_FILE, Layout, PeftOptions};
use crate::generate::{
    Decoder, Engine, FinishReason, GenerateConfig, Generated, LoadedAdapter, Sampling,
};
use crate::model::{AdapterTensors, AnyAdapter, ModelConfig, Quantize, Target};
use crate::text::{LocalTime, Message};
use crate::{Error, Result};

/// A model on a device of the page's thread, with its adapters.
///
/// Calls must not overlap: `js/engine.js` queues them.
#[wasm_bindgen]
pub struct WasmEngine {
    files: ModelFiles,
    name: String,
    quantize: Option<Quantize>,
    loaded: RefCell<Loaded>,
}

/// What is made anew when the device was lost.
struct Loaded {
    engine: Rc<Engine>,
    device: DeviceInfo,
    adapters: BTreeMap<String, HeldAdapter>,
    /// The decoder of the last generation with the adapter it was recorded for: a next turn finds
    /// its history in the cache.
    decoder: Option<(Option<String>, Decoder)>,
}

/// An adapter on the host, for files and for a new device, and on the device.
struct HeldAdapter {
    tensors: AdapterTensors,
    loaded: LoadedAdapter,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelInfo<'a> {
    name: &'a str,
    architecture: &'a str,
    parameters: f64,
    bytes: f64,
    layers: usize,
    vocab_size: usize,
    context_length: usize,
    has_chat_template: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemoryInfo {
    gpu: u64,
    gpu_peak: u64,
    wasm: usize,
}

#[derive(Serialize)]
struct AdapterInfo<'a> {
    name: &'a str,
    rank: usize,
    parameters: usize,
    active: bool,
}

/// `Sampling` of the contract.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct SamplingOptions {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    seed: Option<u64>,
    max_tokens: Option<usize>,
    stop: Option<Stop>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

const MAX_TOKENS: usize = 256;

impl SamplingOptions {
    /// `room` is what the context has left after the prompt.
    fn config(self, room: usize) -> GenerateConfig {
        let default = Sampling::default();
        GenerateConfig {
            max_new_tokens: self.max_tokens.unwrap_or(MAX_TOKENS.min(room.max(1))),
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(default.temperature),
                top_k: self.top_k.unwrap_or(default.top_k),
                top_p: self.top_p.unwrap_or(default.top_p),
                min_p: self.min_p.unwrap_or(default.min_p),
                repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
                seed: self.seed.unwrap_or(default.seed),
            },
            stop: match self.stop {
                None => Vec::new(),
                Some(Stop::One(stop)) => vec![stop],
                Some(Stop::Several(stops)) => stops,
            },
        }
    }
}

#[wasm_bindgen]
impl WasmEngine {
    /// Loads a model from its files (`{ name, blob }`), calling `on_progress(loaded, total)`.
    /// Without `tuning` the kernels' variants are those that are safe to take unmeasured.
    pub async fn load(
        files: Array,
        name: String,
        quantize: Option<String>,
        tuning: Option<Tuning>,
        on_progress: Function,
        signal: Option<AbortSignal>,
    ) -> Result<WasmEngine, JsValue> {
        let files = ModelFiles::from_js(&files)?;
        let quantize = quantize.as_deref().map(parse_quantize).transpose()?;
        let loaded = load(&files, quantize, tuning.as_ref(), &on_progress, signal.as_ref()).await?;
        Ok(Self { files, name, quantize, loaded: RefCell::new(loaded) })
    }

    /// Loads it again, with its adapters, on a new device.
    pub async fn reload(
        &self,
        tuning: Option<Tuning>,
        on_progress: Function,
        signal: Option<AbortSignal>,
    ) -> Result<(), JsValue> {
        // Its memory first: there may not be room for two.
        self.lose_device();
        let mut new =
            load(&self.files, self.quantize, tuning.as_ref(), &on_progress, signal.as_ref())
                .await?;
        let old = std::mem::take(&mut self.loaded.borrow_mut().adapters);
        for (name, HeldAdapter { tensors, .. }) in old {
            let loaded = new.engine.load_adapter(&name, &AnyAdapter::Lora(tensors.clone()))?;
            new.adapters.insert(name, HeldAdapter { tensors, loaded });
        }
        *self.loaded.borrow_mut() = new;
        Ok(())
    }

    /// `ModelInfo` of the contract.
    #[wasm_bindgen(getter)]
    pub fn model(&self) -> Result<JsValue, JsValue> {
        let engine = self.engine();
        let config = engine.config();
        let info = ModelInfo {
            name: &self.name,
            architecture: &config.model_type,
            parameters: parameters(config) as f64,
            bytes: self.files.bytes(),
            layers: config.num_hidden_layers,
            vocab_size: config.vocab_size,
            context_length: config.max_position_embeddings,
            has_chat_template: engine.has_chat_template(),
        };
        Ok(to_js(&info)?)
    }

    /// `DeviceInfo` of the contract.
    #[wasm_bindgen(getter)]
    pub fn device(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.loaded.borrow().device)?)
    }

    /// `MemoryInfo` of the contract.
    pub fn memory(&self) -> Result<JsValue, JsValue> {
        let engine = self.engine();
        let memory = engine.model().gpu()?.context.memory();
        let wasm = core::arch::wasm32::memory_size(0) * 65536;
        Ok(to_js(&MemoryInfo { gpu: memory.now(), gpu_peak: memory.peak(), wasm })?)
    }

    /// A text's tokens.
    pub fn encode(&self, text: &str) -> Result<Uint32Array, JsValue> {
        Ok(Uint32Array::from(&self.engine().tokenizer().encode(text, false)?[..]))
    }

    /// The tokens of a bare prompt: with those that the model wants before it.
    #[wasm_bindgen(js_name = encodePrompt)]
    pub fn encode_prompt(&self, text: &str) -> Result<Uint32Array, JsValue> {
        Ok(Uint32Array::from(&self.engine().tokenizer().encode(text, true)?[..]))
    }

    /// The tokens of a chat that asks for an answer.
    #[wasm_bindgen(js_name = encodeChat)]
    pub fn encode_chat(&self, messages: JsValue) -> Result<Uint32Array, JsValue> {
        let messages: Vec<Message> = from_js("messages", messages)?;
        Ok(Uint32Array::from(&self.engine().encode_chat(&messages)?[..]))
    }

    /// The text of tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, JsValue> {
        Ok(self.engine().tokenizer().decode(ids, false)?)
    }

    /// Continues `prompt`; `on_text` gets the text as it comes.
    pub async fn generate(
        &self,
        prompt: Vec<u32>,
        options: JsValue,
        adapter: Option<String>,
        on_text: Function,
        signal: Option<AbortSignal>,
    ) -> Result<JsValue, JsValue> {
        let options: SamplingOptions = from_js("sampling", options)?;
        let engine = self.engine();
        let used = self.adapter(adapter.as_deref())?;
        check_signal(signal.as_ref())?;
        let last = self.loaded.borrow_mut().decoder.take();
        let mut decoder = match last {
            Some((name, decoder)) if name == adapter => decoder,
            _ => engine.decoder(used.as_ref())?,
        };
        let config = options.config(decoder.limit().saturating_sub(prompt.len()));
        let mut hand_on = |text: &str| {
            call(&on_text, &text.into());
            match is_aborted(signal.as_ref()) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let answer = engine.generate(&mut decoder, &prompt, &config, &clock, &mut hand_on).await?;
        // After an error the cache is not to be relied on.
        self.loaded.borrow_mut().decoder = Some((adapter, decoder));
        check_signal(signal.as_ref())?;
        Ok(generated(prompt.len(), &answer)?)
    }

    /// Loads an adapter's files under `name`.
    #[wasm_bindgen(js_name = loadAdapter)]
    pub async fn load_adapter(&self, name: String, files: Array) -> Result<JsValue, JsValue> {
        let engine = self.engine();
        let tensors = read_adapter(&NamedFile::list(&files)?, engine.config()).await?;
        Ok(self.add_adapter(name, tensors)?)
    }

    /// Adds up loaded adapters, each times its weight, as one more under `name`.
    #[wasm_bindgen(js_name = blendAdapters)]
    pub fn blend_adapters(&self, name: String, weights: JsValue) -> Result<JsValue, JsValue> {
        let weights: BTreeMap<String, f32> = from_js("weights", weights)?;
        let blend = {
            let mut parts = Vec::new();
            for (part, weight) in &weights {
                self.adapter(Some(part))?;
                parts.push((part.as_str(), *weight));
            }
            let loaded = self.loaded.borrow();
            let parts: Vec<_> = parts
                .into_iter()
                .map(|(part, weight)| (part, &loaded.adapters[part].tensors, weight))
                .collect();
            AdapterTensors::blend(&parts)?
        };
        Ok(self.add_adapter(name, blend)?)
    }

    /// Forgets an adapter.
    #[wasm_bindgen(js_name = removeAdapter)]
    pub fn remove_adapter(&self, name: &str) -> Result<(), JsValue> {
        self.adapter(Some(name))?;
        let mut loaded = self.loaded.borrow_mut();
        loaded.adapters.remove(name);
        loaded.decoder = None;
        Ok(())
    }

    /// `AdapterInfo` of every loaded adapter.
    #[wasm_bindgen(js_name = listAdapters)]
    pub fn list_adapters(&self) -> Result<JsValue, JsValue> {
        let loaded = self.loaded.borrow();
        Ok(to_js(&loaded.adapters.iter().map(|(name, a)| info(name, a)).collect::<Vec<_>>())?)
    }

    /// An adapter's files.
    #[wasm_bindgen(js_name = exportAdapter)]
    pub fn export_adapter(&self, name: &str, format: &str) -> Result<Array, JsValue> {
        self.adapter(Some(name))?;
        let loaded = self.loaded.borrow();
        let config = loaded.engine.config();
        let tensors = &loaded.adapters[name].tensors;
        Ok(adapter_files(tensors, config, &self.name, format, Map::new())?)
    }

    /// Throws what the device has reported. A read of a lost device may fail before its loss is
    /// told, so that the caller asks again.
    pub fn check(&self) -> Result<(), JsValue> {
        Ok(self.engine().model().gpu()?.context.check()?)
    }

    /// Loses the device, as a driver's reset would; also frees its memory.
    #[wasm_bindgen(js_name = loseDevice)]
    pub fn lose_device(&self) {
        if let Ok(gpu) = self.engine().model().gpu() {
            gpu.context.device().destroy();
        }
    }
}

impl WasmEngine {
    pub(super) fn engine(&self) -> Rc<Engine> {
        self.loaded.borrow().engine.clone()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn device_name(&self) -> String {
        self.loaded.borrow().device.name.clone()
    }

    /// The adapter of that name; none for no name.
    pub(super) fn adapter(&self, name: Option<&str>) -> Result<Option<LoadedAdapter>> {
        let Some(name) = name else { return Ok(None) };
        let loaded = self.loaded.borrow();
        match loaded.adapters.get(name) {
            Some(found) => Ok(Some(found.loaded.clone())),
            None => {
                let names: Vec<&str> = loaded.adapters.keys().map(String::as_str).collect();
                Err(Error::invalid(match names.is_empty() {
                    true => format!("no adapter `{name}` is loaded"),
                    false => format!("no adapter `{name}`; loaded are {}", names.join(", ")),
                }))
            }
        }
    }

    fn add_adapter(&self, name: String, tensors: AdapterTensors) -> Result<JsValue> {
        let mut loaded = self.loaded.borrow_mut();
        let on_device = loaded.engine.load_adapter(&name, &AnyAdapter::Lora(tensors.clone()))?;
        // It may have been recorded with one of the same name.
        loaded.decoder = None;
        let adapter = HeldAdapter { tensors, loaded: on_device };
        let info = to_js(&info(&name, &adapter))?;
        loaded.adapters.insert(name, adapter);
        Ok(info)
    }
}

/// Opens a device and loads the model onto it.
async fn load(
    files: &ModelFiles,
    quantize: Option<Quantize>,
    tuning: Option<&Tuning>,
    on_progress: &Function,
    signal: Option<&AbortSignal>,
) -> Result<Loaded, JsValue> {
    let (context, mut device) = support::require().await?;
    // Before anything is measured: it may be no model.
    let checkpoint = files.open().await?;
    check_signal(signal)?;
    if let Some(tuning) = tuning {
        variants::choose(&context, &mut device, tuning).await?;
        check_signal(signal)?;
    }
    let mut tell = |done: u64, total: u64| {
        let _ = on_progress.call2(&JsValue::NULL, &(done as f64).into(), &(total as f64).into());
        check_signal(signal)
    };
    let mut engine = Engine::load(&context, &checkpoint, quantize, &mut tell).await?;
    engine.set_time(local_time());
    Ok(Loaded { engine: Rc::new(engine), device, adapters: BTreeMap::new(), decoder: None })
}

fn parse_quantize(name: &str) -> Result<Quantize> {
    match name {
        "f32" => Ok(Quantize::F32),
        "f16" => Ok(Quantize::F16),
        "q8_0" => Ok(Quantize::Q8_0),
        "q4_0" => Ok(Quantize::Q4_0),
        other => {
            Err(Error::invalid(format!("quantize is `{other}`; there are f32, f16, q8_0 and q4_0")))
        }
    }
}

fn local_time() -> LocalTime {
    let now = js_sys::Date::new_0();
    LocalTime {
        unix_seconds: (now.get_time() / 1e3) as i64,
        utc_offset_seconds: (-60.0 * now.get_timezone_offset()) as i32,
    }
}

/// Whether the caller wants no more.
pub(super) fn is_aborted(signal: Option<&AbortSignal>) -> bool {
    signal.is_some_and(AbortSignal::aborted)
}

/// [`Error::Cancelled`] if so.
pub(super) fn check_signal(signal: Option<&AbortSignal>) -> Result<()> {
    if is_aborted(signal) { Err(Error::Cancelled) } else { Ok(()) }
}

/// The model's weights.
fn parameters(config: &ModelConfig) -> usize {
    let table = config.vocab_size * config.hidden_size;
    let tables = if config.tie_word_embeddings { table } else { 2 * table };
    let linears: usize = Target::ALL
        .iter()
        .map(|target| {
            let (ins, outs) = target.shape(config);
            ins * outs
        })
        .sum();
    tables + config.num_hidden_layers * (linears + 2 * config.hidden_size) + config.hidden_size
}

fn info<'a>(name: &'a str, adapter: &HeldAdapter) -> AdapterInfo<'a> {
    let ranks = adapter.tensors.modules().map(|(_, lora)| lora.rank);
    AdapterInfo {
        name,
        rank: ranks.max().unwrap_or(0),
        parameters: adapter.tensors.modules().map(|(_, lora)| lora.a.len() + lora.b.len()).sum(),
        active: false,
    }
}

/// `Generated` of the contract.
fn generated(prompt: usize, answer: &Generated) -> Result<JsValue> {
    let timing = &answer.timing;
    let reason = match answer.finish_reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::Cancelled => "stop",
    };
    let tokens = answer.tokens.len();
    let rate = timing.prefill_rate();
    let object = to_js(&json!({
        "text": answer.text,
        "finish_reason": reason,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "extra": {
                "computed_prompt_tokens": timing.prompt_tokens,
                "time_to_first_token_s": timing.first_token_seconds,
                "decode_s": timing.decode_seconds,
                "prefill_tokens_per_s": if rate.is_finite() { rate } else { 0.0 },
                "decode_tokens_per_s": timing.decode_rate().filter(|rate| rate.is_finite()),
            },
        },
    }))?;
    // A fresh object takes a property.
    let _ = js_sys::Reflect::set(&object, &"tokens".into(), &Uint32Array::from(&answer.tokens[..]));
    Ok(object)
}

/// The adapter of `model` in two files, or in one GGUF.
async fn read_adapter(files: &[NamedFile], model: &ModelConfig) -> Result<AdapterTensors> {
    if let [file] = files
        && file.bytes.starts_with(b"GGUF")
    {
        let source = Bytes::new(file.name.clone(), file.bytes.clone());
        return adapter::read_gguf(&source, Some(model)).await;
    }
    let find = |name: &str| {
        files.iter().find(|file| file.name == name).ok_or_else(|| {
            Error::format(
                name,
                "missing; an adapter is two files, choose both at once, or one GGUF",
            )
        })
    };
    let config = find(CONFIG_FILE)?;
    let weights = find(Layout::detect(CONFIG_FILE, &config.bytes)?.weights_file())?;
    let source = Bytes::new(weights.name.clone(), weights.bytes.clone());
    let any = adapter::read(CONFIG_FILE, &config.bytes, Box::new(source), &[], Some(model)).await?;
    Ok(any.lora(CONFIG_FILE)?.clone())
}

/// An adapter as files; `arguments` go into MLX's config.
pub(super) fn adapter_files(
    tensors: &AdapterTensors,
    config: &ModelConfig,
    model: &str,
    format: &str,
    mut arguments: Map<String, serde_json::Value>,
) -> Result<Array> {
    let files: AdapterFiles = match format {
        "mlx" => {
            arguments.insert("model".into(), model.into());
            adapter::write_mlx(tensors, config, &arguments)?
        }
        "peft" => {
            let options = PeftOptions { base_model: model, ..PeftOptions::default() };
            adapter::write_peft(tensors, config, &options)?
        }
        other => {
            return Err(Error::invalid(format!("format is `{other}`; there are mlx and peft")));
        }
    };
    Ok(to_array(&files))
}

/// The files as the caller gets them.
pub(super) fn to_array(files: &AdapterFiles) -> Array {
    let file = |(name, bytes): (&'static str, &[u8])| {
        NamedFile { name: name.to_owned(), bytes: bytes.to_vec() }.to_js()
    };
    files.iter().map(file).collect()
}
