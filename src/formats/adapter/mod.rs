//! Adapter files, as MLX-LM and PEFT write them: `adapter_config.json` and one safetensors file;
//! and llama.cpp's, one GGUF file.
//!
//! Both say the same in other words. MLX has `lora_a` (in, rank) and `lora_b` (rank, out), one
//! rank and `scale` for all, and counts blocks from the last; PEFT has the transposes `lora_A` and
//! `lora_B`, `lora_alpha` = scale · rank, and rules by name for ranks and alphas. In memory it is
//! always MLX's. DoRA's magnitudes are the same (out) in both. Weights that take the place of the
//! model's stand under the model's own names: PEFT's `modules_to_save`, and all that MLX's
//! `fine_tune_type: full` has. Adapters of other kinds are PEFT's
//! files, whose tensors keep their names ([`NamedAdapter`](crate::model::NamedAdapter)).

mod arrays;
mod gguf;
mod mlx;
mod named;
mod names;
mod peft;
mod tensors;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::ByteSource;
use crate::model::{AdapterTensors, AnyAdapter, ModelConfig};
use crate::{Error, Result};

/// The settings' file in both layouts.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// MLX-LM's.
    Mlx,
    /// PEFT's.
    Peft,
}

impl Layout {
    /// The file of the parameters.
    pub const fn weights_file(self) -> &'static str {
        match self {
            Layout::Mlx => "adapters.safetensors",
            Layout::Peft => "adapter_model.safetensors",
        }
    }

    /// What its config says of a DoRA adapter, for errors.
    const fn dora(self) -> &'static str {
        match self {
            Layout::Mlx => "`fine_tune_type: dora`",
            Layout::Peft => "`use_dora: true`",
        }
    }

    /// Tells whose `adapter_config.json` it is, called `name` in errors, by its keys.
    ///
    /// # Errors
    /// When it is not JSON, or nobody's.
    pub fn detect(name: &str, config_json: &[u8]) -> Result<Self> {
        let config: Map<String, Value> = serde_json::from_slice(config_json)
            .map_err(|error| Error::format(name, error.to_string()))?;
        if config.contains_key("peft_type") {
            Ok(Layout::Peft)
        } else if config.contains_key("fine_tune_type") || config.contains_key("lora_parameters") {
            Ok(Layout::Mlx)
        } else {
            Err(Error::format(
                name,
                "is not an adapter's: PEFT's has `peft_type`, MLX's `fine_tune_type`",
            ))
        }
    }
}

/// An adapter's two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterFiles {
    /// Whose they are.
    pub layout: Layout,
    /// [`CONFIG_FILE`].
    pub config_json: Vec<u8>,
    /// [`Layout::weights_file`].
    pub weights: Vec<u8>,
}

impl AdapterFiles {
    /// Names and contents, the parameters first.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let weights = (self.layout.weights_file(), &self.weights[..]);
        [weights, (CONFIG_FILE, &self.config_json)].into_iter()
    }
}

/// Rank and scale of the linear layer at a path such as `model.layers.14.self_attn.q_proj`.
struct Setting {
    rank: usize,
    scale: f64,
}

/// What `adapter_config.json` says of an adapter.
struct Settings {
    /// Whether each update has a magnitude.
    is_dora: bool,
    /// PEFT's `modules_to_save`: the ends of paths of modules whose weights it has.
    modules_to_save: Vec<String>,
    /// By the linear layer's path.
    of: Box<dyn Fn(&str) -> Setting>,
}

/// Reads an adapter in either layout; `name` is `config_json` in errors. Whether it fits a model
/// is for [`AdapterTensors::check`] to say.
///
/// `known_kinds` are the `peft_type`s, in capitals, that the caller can do something with besides
/// LORA; such an adapter becomes an [`AnyAdapter::Named`]. `model` is what the adapter is for: where
/// its head is its embedding, MLX's update of that is the head's too. Without one the adapter is as its
/// files have it: enough to tell what is in them.
///
/// # Errors
/// - A config of another kind, or that asks for more than LoRA or DoRA on linear layers, or LoRA on the
///   embedding.
/// - Tensors that are not such updates, lack their other half, or have another rank than the config
///   says; DoRA without its magnitudes, or magnitudes without DoRA.
/// - Of another kind, tensors that are not called `model.layers.N.`, a linear layer's path and more.
/// - Tensors that are empty, not F32, F16 or BF16, or hold a number that is not finite.
/// - A damaged file.
pub async fn read(
    name: &str,
    config_json: &[u8],
    weights: Box<dyn ByteSource>,
    known_kinds: &[&str],
    model: Option<&ModelConfig>,
) -> Result<AnyAdapter> {
    let layout = Layout::detect(name, config_json)?;
    let settings = match layout {
        Layout::Mlx => mlx::settings(name, config_json)?,
        Layout::Peft => {
            if let Some(mut named) = named::config(name, config_json, known_kinds)? {
                named.tensors = named::read(weights.as_ref(), &named.kind).await?;
                return Ok(AnyAdapter::Named(named));
            }
            peft::settings(name, config_json)?
        }
    };
    let adapter = tensors::read(layout, &settings, weights.as_ref()).await?;
    Ok(AnyAdapter::Lora(match (layout, model) {
        (Layout::Mlx, Some(model)) => mlx::tied(weights.name(), adapter, model)?,
        _ => adapter,
    }))
}

pub use gguf::{is_gguf_adapter, read_gguf, write_gguf};
pub use mlx::write as write_mlx;
pub use named::write as write_named;
pub use peft::{PeftOptions, write as write_peft};

/// Refuses an adapter that no file could hold, or the model has no place for.
fn check_writable(adapter: &AdapterTensors, config: &ModelConfig) -> Result<()> {
    if adapter.is_empty() {
        return Err(Error::invalid("the adapter updates nothing; there is nothing to write"));
    }
    adapter.check("the adapter", config)
}

/// Whether the updates have magnitudes: all or none, since a config says it once.
fn is_dora(adapter: &AdapterTensors) -> Result<bool> {
    let mut with = adapter.modules().map(|(_, lora)| lora.magnitude.is_some());
    let first = with.next().unwrap_or(false);
    if with.any(|other| other != first) {
        return Err(Error::invalid(
            "some of the adapter's updates have DoRA's magnitude and some do not; adapter files \
             hold either, write two adapters",
        ));
    }
    Ok(first)
}
