//! Reading Hugging Face's `config.json` and `generation_config.json`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ModelConfig, RopeScaling};
use crate::{Error, Result};

/// `config.json` as written by any version of `transformers`.
#[derive(Deserialize)]
struct ConfigJson {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeJson>,
    /// What `transformers` 5 writes instead of `rope_theta` and `rope_scaling`.
    rope_parameters: Option<RopeJson>,
    partial_rotary_factor: Option<f32>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMore>,
    quantization_config: Option<serde_json::Value>,
}

/// The part of `config.json` that says how to read the rest.
#[derive(Deserialize)]
struct ModelTypeJson {
    model_type: String,
}

#[derive(Deserialize)]
struct RopeJson {
    rope_theta: Option<f32>,
    rope_type: Option<String>,
    /// The name of `rope_type` before `transformers` 4.43.
    #[serde(rename = "type")]
    old_type: Option<String>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
}

#[derive(Deserialize)]
struct GenerationJson {
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMore>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl OneOrMore {
    fn ids(this: Option<Self>) -> Vec<u32> {
        match this {
            None => Vec::new(),
            Some(OneOrMore::One(id)) => vec![id],
            Some(OneOrMore::More(ids)) => ids,
        }
    }
}

impl ModelConfig {
    /// Reads `config.json`, called `name` in errors. Sizes must be there; what else is left out
    /// has `transformers`' default for the architecture.
    ///
    /// # Errors
    /// When it is not JSON, of another architecture, or asks for something the decoder does not
    /// have (another activation, an MLP bias, another rope scaling, prequantised weights).
    pub fn from_json(name: &str, bytes: &[u8]) -> Result<Self> {
        let fail = |problem: String| Err(Error::format(name, problem));
        let ModelTypeJson { model_type } = parse(name, bytes)?;
        Self::check_model_type(name, &model_type)?;
        let json: ConfigJson = parse(name, bytes)?;
        if let Some(act) = json.hidden_act.filter(|act| act != "silu") {
            return fail(format!("hidden_act `{act}` is not supported; supported: silu"));
        }
        if json.mlp_bias == Some(true) {
            return fail("mlp_bias is not supported; only models without it are".into());
        }
        if json.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
            return fail("partial_rotary_factor is not supported; only whole heads are".into());
        }
        if json.quantization_config.is_some() {
            return fail(
                "quantization_config: prequantised safetensors are not supported; take the \
                 unquantised model or a GGUF"
                    .into(),
            );
        }
        let head_dim = match json.head_dim {
            Some(head_dim) => head_dim,
            None => {
                let heads = json.num_attention_heads;
                if heads == 0 || !json.hidden_size.is_multiple_of(heads) {
                    return fail(format!(
                        "num_attention_heads {heads} does not divide hidden_size {}",
                        json.hidden_size
                    ));
                }
                json.hidden_size / heads
            }
        };
        let max_position_embeddings = json.max_position_embeddings.unwrap_or(2048);
        let rope_theta = json
            .rope_parameters
            .as_ref()
            .and_then(|rope| rope.rope_theta)
            .or(json.rope_theta)
            .unwrap_or(10_000.0);
        let rope = json.rope_parameters.or(json.rope_scaling);
        let rope_scaling = match rope {
            Some(rope) => rope.scaling(name, max_position_embeddings)?,
            None => None,
        };
        Self {
            model_type,
            vocab_size: json.vocab_size,
            hidden_size: json.hidden_size,
            intermediate_size: json.intermediate_size,
            num_hidden_layers: json.num_hidden_layers,
            num_attention_heads: json.num_attention_heads,
            num_key_value_heads: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
            head_dim,
            max_position_embeddings,
            rms_norm_eps: json.rms_norm_eps.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: json.tie_word_embeddings.unwrap_or(false),
            attention_bias: json.attention_bias.unwrap_or(false),
            bos_token_id: json.bos_token_id,
            eos_token_ids: OneOrMore::ids(json.eos_token_id),
        }
        .validate(name)
    }

    /// Adds what `generation_config.json`, called `name` in errors, says: its end tokens join
    /// those of `config.json`, since some models name only there the one that ends an answer.
    pub fn with_generation_config(mut self, name: &str, bytes: &[u8]) -> Result<Self> {
        let json: GenerationJson = parse(name, bytes)?;
        self.bos_token_id = self.bos_token_id.or(json.bos_token_id);
        for id in OneOrMore::ids(json.eos_token_id) {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        self.validate(name)
    }
}

impl ModelConfig {
    /// `config.json`, from which [`Self::from_json`] reads the same.
    pub fn to_json(&self) -> Vec<u8> {
        let rope_scaling = self.rope_scaling.as_ref().map(|scaling| match *scaling {
            RopeScaling::Linear { factor } => {
                json!({"rope_type": "linear", "factor": short(factor)})
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": short(factor),
                "low_freq_factor": short(low_freq_factor),
                "high_freq_factor": short(high_freq_factor),
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        });
        let eos_token_id = match self.eos_token_ids[..] {
            [] => Value::Null,
            [one] => one.into(),
            ref ids => json!(ids),
        };
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": self.attention_bias,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos_token_id,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": false,
            "model_type": self.model_type,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": short(self.rms_norm_eps),
            "rope_scaling": rope_scaling,
            "rope_theta": short(self.rope_theta),
            "tie_word_embeddings": self.tie_word_embeddings,
            "vocab_size": self.vocab_size,
        });
        format!("{config:#}\n").into_bytes()
    }
}

/// The shortest decimal that is read as this f32: 1e-5, not 9.999999747378752e-6.
fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}

impl RopeJson {
    fn scaling(self, name: &str, max_position_embeddings: usize) -> Result<Option<RopeScaling>> {
        let kind = self.rope_type.or(self.old_type);
        let needed = |field: &str, value: Option<f32>| {
            value.ok_or_else(|| Error::format(name, format!("rope_scaling has no {field}")))
        };
        match kind.as_deref() {
            None | Some("default") => Ok(None),
            Some("linear") => {
                Ok(Some(RopeScaling::Linear { factor: needed("factor", self.factor)? }))
            }
            Some("llama3") => Ok(Some(RopeScaling::Llama3 {
                factor: needed("factor", self.factor)?,
                low_freq_factor: needed("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: needed("high_freq_factor", self.high_freq_factor)?,
                original_max_position_embeddings: self
                    .original_max_position_embeddings
                    .unwrap_or(max_position_embeddings),
            })),
            Some(other) => Err(Error::format(
                name,
                format!(
                    "rope_scaling `{other}` is not supported; supported: default, linear, llama3"
                ),
            )),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::format(name, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use proptest::prelude::*;

    /// SmolLM2-135M-Instruct's.
    fn smollm2() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1,
            "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
            "intermediate_size": 1536, "max_position_embeddings": 8192, "mlp_bias": false,
            "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30,
            "num_key_value_heads": 3, "rms_norm_eps": 1e-5, "rope_scaling": null,
            "rope_theta": 100000, "tie_word_embeddings": true, "vocab_size": 49152
        })
    }

    fn read(json: &Value) -> Result<ModelConfig> {
        ModelConfig::from_json("config.json", json.to_string().as_bytes())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut json = smollm2();
        json[field] = value;
        json
    }

    #[test]
    fn reads_smollm2() {
        let config = read(&smollm2()).expect("valid");
        let expected = ModelConfig {
            model_type: "llama".into(),
            vocab_size: 49152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-5,
            rope_theta: 100_000.0,
            rope_scaling: None,
            tie_word_embeddings: true,
            attention_bias: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let linear = json!({"rope_type": "linear", "factor": 2.5});
        let llama3 = json!({
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        });
        for json in [
            smollm2(),
            with("rope_scaling", linear),
            with("rope_scaling", llama3),
            with("eos_token_id", json!([2, 0])),
            with("bos_token_id", Value::Null),
            with("eos_token_id", Value::Null),
            with("head_dim", json!(32)),
        ] {
            let config = read(&json).expect("valid");
            let again = ModelConfig::from_json("config.json", &config.to_json()).expect("valid");
            assert_eq!(again, config);
        }
    }

    #[test]
    fn what_is_left_out_has_transformers_defaults() {
        let mut json = smollm2();
        for field in [
            "attention_bias",
            "bos_token_id",
            "eos_token_id",
            "hidden_act",
            "max_position_embeddings",
            "mlp_bias",
            "num_key_value_heads",
            "rms_norm_eps",
            "rope_scaling",
            "rope_theta",
            "tie_word_embeddings",
        ] {
            json.as_object_mut().expect("an object").remove(field);
        }
        let config = read(&json).expect("valid");
        assert_eq!(config.num_key_value_heads, 9);
        assert_eq!(config.max_position_embeddings, 2048);
        assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-6, 1e4));
        assert!(!config.tie_word_embeddings && config.eos_token_ids.is_empty());
    }

    #[test]
    fn rope_is_read_from_both_spellings() {
        let llama3 = json!({
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        });
        let expected = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let old = read(&with("rope_scaling", llama3.clone())).expect("valid");
        assert_eq!((old.rope_theta, old.rope_scaling), (1e5, Some(expected.clone())));

        let mut parameters = llama3;
        parameters["rope_theta"] = json!(500_000.0);
        let mut json = with("rope_parameters", parameters);
        json.as_object_mut().expect("an object").remove("rope_theta");
        let new = read(&json).expect("valid");
        assert_eq!((new.rope_theta, new.rope_scaling), (5e5, Some(expected)));

        let linear = read(&with("rope_scaling", json!({"type": "linear", "factor": 2.0})));
        let linear = linear.expect("valid").rope_scaling;
        assert_eq!(linear, Some(RopeScaling::Linear { factor: 2.0 }));
        let default = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 1e4}));
        assert_eq!(read(&default).expect("valid").rope_scaling, None);
    }

    #[test]
    fn generation_config_adds_end_tokens() {
        let config = read(&smollm2()).expect("valid");
        let config = config
            .with_generation_config("generation_config.json", br#"{"eos_token_id": [2, 0]}"#)
            .expect("valid");
        assert_eq!(config.eos_token_ids, [2, 0]);
        let error = config
            .with_generation_config("generation_config.json", br#"{"eos_token_id": 49152}"#)
            .expect_err("out of range");
        assert!(error.to_string().contains("49152"), "{error}");
    }

    #[test]
    fn what_no_decoder_can_do_is_named() {
        for (field, value, named) in [
            ("model_type", json!("qwen2"), "`qwen2` is not supported; supported: llama"),
            ("hidden_act", json!("gelu"), "hidden_act `gelu`"),
            ("mlp_bias", json!(true), "mlp_bias"),
            ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
            ("quantization_config", json!({"bits": 4}), "quantization_config"),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "`yarn`"),
            ("rope_scaling", json!({"rope_type": "linear"}), "no factor"),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 0.5}), "at least 1"),
            ("hidden_size", json!(577), "does not divide hidden_size"),
            ("hidden_size", json!(0), "hidden_size is 0"),
            ("hidden_size", json!(4_000_000_000_u32), "hidden_size"),
            ("vocab_size", json!("many"), "expected usize"),
            ("num_attention_heads", json!(0), "num_attention_heads 0"),
            ("num_key_value_heads", json!(2), "num_key_value_heads 2 does not divide"),
            ("num_key_value_heads", json!(0), "num_key_value_heads is 0"),
            ("head_dim", json!(63), "even"),
            ("rms_norm_eps", json!(0.0), "rms_norm_eps is 0"),
            ("rope_theta", json!(-1.0), "rope_theta is -1"),
            ("eos_token_id", json!([2, 49152]), "token id 49152"),
        ] {
            let error = read(&with(field, value)).expect_err(field).to_string();
            assert!(error.starts_with("config.json: ") && error.contains(named), "{error}");
        }
        let mut json = smollm2();
        json.as_object_mut().expect("an object").remove("vocab_size");
        let error = read(&json).expect_err("no vocab_size").to_string();
        assert!(error.contains("missing field `vocab_size`"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = ModelConfig::from_json("config.json", &bytes);
        }

        #[test]
        fn no_numbers_panic(field in 0..8_usize, number: i64) {
            let fields = [
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta",
            ];
            let _ = read(&with(fields[field], json!(number)));
        }
    }
}
