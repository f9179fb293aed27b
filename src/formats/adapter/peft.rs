//! PEFT's `adapter_config.json` (`LoraConfig`).

use std::collections::BTreeSet;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{AdapterFiles, Layout, Setting, Settings, check_writable, is_dora, named, tensors};
use crate::model::{AdapterTensors, Lora, ModelConfig, Module, Target};
use crate::{Error, Result};

/// Fields that, when set, make a layer compute something else than LoRA or DoRA, or other layers
/// change.
const UNSUPPORTED: [&str; 11] = [
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];

/// `init_lora_weights` that leave the base model as it is; the others subtract the start of the
/// adapter from it.
const HARMLESS_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The modules outside of the blocks that may have an update.
const TABLES: [&str; 2] = ["embed_tokens", "lm_head"];

#[derive(Deserialize)]
struct Config {
    r: usize,
    lora_alpha: f64,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    bias: Option<String>,
    target_modules: Option<Value>,
    init_lora_weights: Option<Value>,
    modules_to_save: Option<Vec<String>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// What the config says of ranks and scales. Which layers have an update, the tensors say.
pub(super) fn settings(name: &str, config_json: &[u8]) -> Result<Settings> {
    let wrong = |problem: String| Error::format(name, problem);
    let config: Config =
        serde_json::from_slice(config_json).map_err(|error| wrong(error.to_string()))?;
    if let Some(problem) = unsupported(&config) {
        return Err(wrong(problem));
    }
    let ranks = patterns("rank_pattern", config.rank_pattern, |value| {
        value.as_u64().and_then(|rank| usize::try_from(rank).ok()).filter(|&rank| rank > 0)
    })
    .map_err(wrong)?;
    let alphas = patterns("alpha_pattern", config.alpha_pattern, Value::as_f64).map_err(wrong)?;
    let is_stabilised = config.use_rslora.unwrap_or(false);
    let of = move |module: &str| {
        let rank = matching(&ranks, module).unwrap_or(config.r);
        let alpha = matching(&alphas, module).unwrap_or(config.lora_alpha);
        Setting { rank, scale: alpha / divisor(rank, is_stabilised) }
    };
    Ok(Settings {
        is_dora: config.use_dora.unwrap_or(false),
        modules_to_save: config.modules_to_save.unwrap_or_default(),
        of: Box::new(of),
    })
}

/// What `lora_alpha` is divided by; rsLoRA (Kalajdzievski, 2023) is stabilised.
fn divisor(rank: usize, is_stabilised: bool) -> f64 {
    if is_stabilised { (rank as f64).sqrt() } else { rank as f64 }
}

/// The first thing that is asked for and can't be done.
fn unsupported(config: &Config) -> Option<String> {
    if config.r == 0 {
        return Some("r is 0".into());
    }
    if let Some(bias) = config.bias.as_deref().filter(|&bias| bias != "none") {
        return Some(format!("bias is `{bias}`; supported: none"));
    }
    if let Some(field) =
        UNSUPPORTED.iter().find(|&&field| config.others.get(field).is_some_and(is_set))
    {
        return Some(format!("{field} is set; only LoRA and DoRA without it are supported"));
    }
    if let Some(Value::String(init)) = &config.init_lora_weights
        && !HARMLESS_INITS.contains(&init.as_str())
    {
        return Some(format!(
            "init_lora_weights is `{init}`, which changes the base model; convert the adapter to \
             plain LoRA with PEFT's save_pretrained(path_initial_model_for_weight_conversion=…)"
        ));
    }
    let Some(Value::Array(targets)) = &config.target_modules else { return None };
    let is_known = |target: &Value| {
        let last = target.as_str().and_then(|path| path.rsplit('.').next());
        last.is_some_and(|last| Target::from_path(last).is_some() || TABLES.contains(&last))
    };
    let stray = targets.iter().find(|target| !is_known(target))?;
    let known = [&Target::ALL.map(last_part)[..], &TABLES].concat().join(", ");
    Some(format!("target_modules has {stray}; supported: {known}"))
}

/// Whether an optional feature's field asks for it.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// The rules of `rank_pattern` or `alpha_pattern`, in their order.
fn patterns<T>(
    field: &str,
    rules: Option<Map<String, Value>>,
    parse: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(Regex, T)>, String> {
    let rule = |(pattern, value): (String, Value)| {
        let parsed =
            parse(&value).ok_or_else(|| format!("{field} gives `{pattern}` the value {value}"))?;
        // As PEFT's `get_pattern_key` has it: the end of a module's path, from a dot on.
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        Ok((regex.map_err(|_| format!("{field}'s `{pattern}` is no regular expression"))?, parsed))
    };
    rules.unwrap_or_default().into_iter().map(rule).collect()
}

fn matching<T: Copy>(rules: &[(Regex, T)], module: &str) -> Option<T> {
    rules.iter().find(|(regex, _)| regex.is_match(module)).map(|&(_, value)| value)
}

fn last_part(target: Target) -> &'static str {
    target.path().rsplit('.').next().unwrap_or_default()
}

/// What PEFT's files say besides the adapter itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PeftOptions<'a> {
    /// The model's name or path, for those who load the adapter by it.
    pub base_model: &'a str,
    /// What the adapter was trained with.
    pub dropout: f32,
    /// Whether the scale is put as rsLoRA's `lora_alpha / √r`, not as `lora_alpha / r`. It is the
    /// same scale; who goes on training with another rank keeps that rule.
    pub use_rslora: bool,
}

/// PEFT's files of an adapter of a model of `config`.
///
/// # Errors
/// An adapter that is not one of the model, is empty, has no updates, or magnitudes on some only.
pub fn write(
    adapter: &AdapterTensors,
    config: &ModelConfig,
    options: &PeftOptions<'_>,
) -> Result<AdapterFiles> {
    check_writable(adapter, config)?;
    let use_dora = is_dora(adapter)?;
    if adapter.is_full() {
        return Err(Error::invalid(
            "PEFT has no adapter of whole weights alone; write this one as MLX's, or fuse it",
        ));
    }
    let module_of = |name: &String| name.rsplit_once('.').map(|(module, _)| module.to_owned());
    let saved: BTreeSet<String> = adapter.weights().keys().filter_map(module_of).collect();
    let PeftOptions { base_model, dropout, use_rslora } = *options;
    let mut rank_pattern = Map::new();
    let mut alpha_pattern = Map::new();
    let of = |lora: &Lora<Vec<f32>>| (lora.rank, alpha(lora.rank, lora.scale, use_rslora));
    // The blocks' rank is the common one, also where the embedding has another.
    let mut linears = adapter.iter().map(|(_, _, lora)| lora);
    let first = linears.next().or_else(|| adapter.modules().next().map(|(_, lora)| lora));
    let (rank, common_alpha) = first.map(of).unwrap_or_default();
    for (module, lora) in adapter.modules() {
        let (other_rank, other_alpha) = of(lora);
        if other_rank != rank {
            rank_pattern.insert(module.path(), other_rank.into());
        }
        if other_alpha != common_alpha {
            alpha_pattern.insert(module.path(), number(other_alpha));
        }
    }
    let (target_modules, layers) = coverage(adapter, config);
    let config_json = json!({
        "alpha_pattern": alpha_pattern,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_to_transform": layers,
        "lora_alpha": number(common_alpha),
        "lora_dropout": dropout,
        "modules_to_save": (!saved.is_empty()).then_some(saved),
        "peft_type": named::LORA,
        "r": rank,
        "rank_pattern": rank_pattern,
        "target_modules": target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": use_dora,
        "use_rslora": use_rslora,
    });
    Ok(AdapterFiles {
        layout: Layout::Peft,
        config_json: format!("{config_json:#}\n").into_bytes(),
        weights: tensors::write(Layout::Peft, adapter)?,
    })
}

/// `lora_alpha`: an f32 if one gives the scale, as whoever wrote it had one. Else exact, as f64 holds the
/// product of an f32 and a rank, or with rsLoRA's root off by far less than half an f32's last place, so
/// that the scale comes back as it was.
fn alpha(rank: usize, scale: f32, is_stabilised: bool) -> f64 {
    let divisor = divisor(rank, is_stabilised);
    let exact = f64::from(scale) * divisor;
    let short = f64::from(exact as f32);
    if (short / divisor) as f32 == scale { short } else { exact }
}

/// A whole number without a point, as people write `lora_alpha`.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { (value as i64).into() } else { value.into() }
}

/// `target_modules`, and `layers_to_transform` if it is not all.
fn coverage(adapter: &AdapterTensors, config: &ModelConfig) -> (Vec<String>, Option<Vec<usize>>) {
    let layers: BTreeSet<usize> = adapter.iter().map(|(layer, _, _)| layer).collect();
    let mut targets: BTreeSet<&str> =
        adapter.iter().map(|(_, target, _)| last_part(target)).collect();
    let some = layers.len() < config.num_hidden_layers;
    let lacks = adapter.iter().count() < layers.len() * targets.len();
    // Some blocks lack some layers; or PEFT would look for the embedding in `layers_to_transform`.
    if lacks || (some && adapter.outside_of_blocks().is_some()) {
        return (adapter.modules().map(|(module, _)| module.path()).collect(), None);
    }
    for (module, name) in [Module::Embedding, Module::Head].into_iter().zip(TABLES) {
        if adapter.of(module).is_some() {
            targets.insert(name);
        }
    }
    (targets.into_iter().map(str::to_owned).collect(), some.then(|| layers.into_iter().collect()))
}
