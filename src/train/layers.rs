//! Which linear layers a run adapts, and with what rank and scale.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::config::{AdapterType, TrainConfig};
use crate::model::{ModelConfig, Module, Target};
use crate::{Error, Result};

impl TrainConfig {
    /// Refuses ranks and alphas that no layer could have.
    pub(super) fn check_patterns(&self) -> Result<()> {
        let kind = self.adapter_type;
        let is_lora = matches!(kind, AdapterType::Lora | AdapterType::Rslora | AdapterType::Dora);
        if self.has_patterns() && !is_lora {
            return Err(Error::invalid(
                "rank-pattern and alpha-pattern are LoRA's; use --adapter-type lora, rslora or dora",
            ));
        }
        let too_large = |rank: &usize| *rank == 0 || u32::try_from(*rank).is_err();
        if let Some((pattern, rank)) = self.rank_pattern.iter().find(|(_, rank)| too_large(rank)) {
            return Err(Error::invalid(format!(
                "rank-pattern gives `{pattern}` the rank {rank}; it is from 1 to {}",
                u32::MAX
            )));
        }
        let is_number = |alpha: &f32| alpha.is_finite() && *alpha >= 0.0;
        if let Some((pattern, alpha)) = self.alpha_pattern.iter().find(|(_, a)| !is_number(a)) {
            return Err(Error::invalid(format!(
                "alpha-pattern gives `{pattern}` the alpha {alpha}; it is a number from 0 up"
            )));
        }
        compiled("rank-pattern", self.rank_pattern.keys())?;
        compiled("alpha-pattern", self.alpha_pattern.keys()).map(|_| ())
    }

    /// Whether layers may differ in rank or scale.
    pub fn has_patterns(&self) -> bool {
        !self.rank_pattern.is_empty() || !self.alpha_pattern.is_empty()
    }

    /// What the keys match: the end of a layer's path, from a dot on, as PEFT's patterns do.
    pub(super) fn patterns(&self) -> Result<Vec<Regex>> {
        let known = || Target::ALL.map(Target::path).join(", ");
        let pattern = |key: &String| {
            // A plain name, as MLX-LM's: a mistake in it is told before there is a model.
            let is_plain = key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
            let in_block =
                key.rsplit('.').next().is_some_and(|last| Target::from_path(last).is_some());
            if is_plain && is_outside_of_blocks(key) {
                return Err(Error::invalid(format!(
                    "keys: LoRA is trained on the blocks' layers alone; train `{key}` itself by \
                     modules-to-save"
                )));
            }
            if is_plain && !in_block {
                return Err(Error::invalid(format!(
                    "no linear layer `{key}` in a block; there are {}",
                    known()
                )));
            }
            regex("keys", key)
        };
        if self.keys.is_empty() {
            return Err(Error::invalid("keys names no linear layer; there is nothing to train"));
        }
        self.keys.iter().map(pattern).collect()
    }

    /// The adapted linear layers of a model: those of its last blocks that a key matches.
    ///
    /// # Errors
    /// [`Error::Invalid`]: a key that matches none, more blocks than there are.
    pub fn linears(&self, model: &ModelConfig) -> Result<BTreeSet<(usize, Target)>> {
        let layers = self.layers(model)?;
        let mut places = BTreeSet::new();
        for (key, pattern) in self.keys.iter().zip(self.patterns()?) {
            let all = layers.clone().flat_map(|layer| Target::ALL.map(|target| (layer, target)));
            let matched = all.filter(|(layer, target)| {
                pattern.is_match(&format!("model.layers.{layer}.{}", target.path()))
            });
            let matched: Vec<_> = matched.collect();
            if matched.is_empty() {
                return Err(Error::invalid(format!(
                    "keys: `{key}` matches no linear layer of the blocks {} to {}",
                    layers.start,
                    layers.end - 1
                )));
            }
            places.extend(matched);
        }
        Ok(places)
    }

    /// Rank and scale of each of [`Self::linears`].
    ///
    /// # Errors
    /// [`Error::Invalid`]: as [`Self::linears`]; a pattern that matches none of them, or two that give
    /// one layer different values.
    pub fn settings(&self, model: &ModelConfig) -> Result<BTreeMap<(usize, Target), (usize, f32)>> {
        let places = self.linears(model)?;
        let ranks = matched("rank-pattern", &self.rank_pattern, &places)?;
        let alphas = matched("alpha-pattern", &self.alpha_pattern, &places)?;
        let common = f64::from(self.scale) * self.rank as f64;
        let setting = |place: (usize, Target)| {
            let rank = ranks.get(&place).copied().unwrap_or(self.rank);
            let alpha = alphas.get(&place).copied();
            let scale = match alpha {
                None if rank == self.rank => self.scale,
                _ => (alpha.map_or(common, f64::from) / rank as f64) as f32,
            };
            (place, (rank, scale))
        };
        Ok(places.into_iter().map(setting).collect())
    }

    /// The settings of a linear layer of that rank and scale.
    pub fn of_layer(&self, (rank, scale): (usize, f32)) -> Self {
        Self { rank, scale, ..self.clone() }
    }
}

/// What `key` of the setting `field` matches: the end of a layer's path, from a dot on, as PEFT's
/// patterns do.
fn regex(field: &str, key: &str) -> Result<Regex> {
    Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
        .map_err(|_| Error::invalid(format!("{field}: `{key}` is no regular expression")))
}

fn compiled<'a>(field: &str, keys: impl Iterator<Item = &'a String>) -> Result<Vec<Regex>> {
    keys.map(|key| regex(field, key)).collect()
}

/// Whether a name is that of the embedding or the head.
fn is_outside_of_blocks(key: &str) -> bool {
    [Module::Embedding, Module::Head].iter().any(|module| {
        let path = module.path();
        path == key || path.rsplit('.').next() == Some(key)
    })
}

/// What the patterns of `field` give each of `places` that one of them matches.
fn matched<T: Copy + PartialEq>(
    field: &str,
    patterns: &BTreeMap<String, T>,
    places: &BTreeSet<(usize, Target)>,
) -> Result<BTreeMap<(usize, Target), T>> {
    let mut found: BTreeMap<(usize, Target), (&String, T)> = BTreeMap::new();
    let compiled = compiled(field, patterns.keys())?;
    for ((pattern, &value), regex) in patterns.iter().zip(compiled) {
        let mut matches = false;
        for &place in places {
            let path = Module::from(place).path();
            if !regex.is_match(&path) {
                continue;
            }
            matches = true;
            match found.insert(place, (pattern, value)) {
                Some((other, old)) if old != value => {
                    return Err(Error::invalid(format!(
                        "{field}: `{other}` and `{pattern}` give `{path}` different values"
                    )));
                }
                _ => {}
            }
        }
        if !matches {
            return Err(Error::invalid(format!(
                "{field}: `{pattern}` matches none of the adapted linear layers"
            )));
        }
    }
    Ok(found.into_iter().map(|(place, (_, value))| (place, value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn model() -> ModelConfig {
        let json = br#"{"model_type": "llama", "vocab_size": 40, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5}"#;
        ModelConfig::from_json("config.json", json).unwrap()
    }

    fn with(num_layers: i64, keys: &[&str]) -> Result<BTreeSet<(usize, Target)>> {
        let keys = keys.iter().map(|&key| key.to_owned()).collect();
        let config = TrainConfig { num_layers, keys, ..Default::default() };
        config.check()?;
        config.linears(&model())
    }

    #[test]
    fn keys_are_names_or_patterns_of_paths() {
        let of = |places: &[(usize, Target)]| places.iter().copied().collect::<BTreeSet<_>>();
        for (num_layers, keys, expected) in [
            (1, &["q_proj"][..], &[(2, Target::Q)][..]),
            (
                2,
                &["mlp.up_proj", "v_proj"],
                &[(1, Target::V), (1, Target::Up), (2, Target::V), (2, Target::Up)],
            ),
            (-1, &["layers.0.self_attn.o_proj"], &[(0, Target::O)]),
            (
                -1,
                &[r"layers\.[01]\.mlp\.(up|gate)_proj"],
                &[(0, Target::Gate), (0, Target::Up), (1, Target::Gate), (1, Target::Up)],
            ),
        ] {
            assert_eq!(with(num_layers, keys).unwrap(), of(expected), "{keys:?}");
        }
        assert_eq!(with(2, &[".*_proj"]).unwrap().len(), 14);
        for (keys, expected) in [
            (&["query"][..], "no linear layer `query` in a block; there are self_attn.q_proj"),
            (&["q_proj", "embed_tokens"], "train `embed_tokens` itself by modules-to-save"),
            (&["lm_head"], "train `lm_head` itself by modules-to-save"),
            (&["(q_proj"], "keys: `(q_proj` is no regular expression"),
            (&["q_proj", "layers.0.mlp.up_proj"], "matches no linear layer of the blocks 1 to 2"),
            (&[], "keys names no linear layer"),
        ] {
            let error = with(2, keys).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn layers_have_the_ranks_and_scales_of_their_patterns() {
        let of = |ranks: &[(&str, usize)], alphas: &[(&str, f32)]| {
            let own = |key: &str| key.to_owned();
            let config = TrainConfig {
                rank: 8,
                scale: 2.0,
                num_layers: 2,
                keys: ["q_proj", "mlp.up_proj"].map(str::to_owned).into(),
                rank_pattern: ranks.iter().map(|&(key, rank)| (own(key), rank)).collect(),
                alpha_pattern: alphas.iter().map(|&(key, alpha)| (own(key), alpha)).collect(),
                ..Default::default()
            };
            config.check()?;
            config.check_model(&model())?;
            Ok::<_, Error>(config)
        };
        let config = of(&[("q_proj", 4), (r"layers\.2\.mlp\..*", 16)], &[("2.*up_proj", 24.0)]);
        let config = config.unwrap();
        // PEFT's lora_alpha is 16, divided by each layer's own rank.
        let expected = [
            ((1, Target::Q), (4, 4.0)),
            ((1, Target::Up), (8, 2.0)),
            ((2, Target::Q), (4, 4.0)),
            ((2, Target::Up), (16, 1.5)),
        ];
        assert_eq!(config.settings(&model()).unwrap(), BTreeMap::from(expected));
        let rslora = TrainConfig { adapter_type: AdapterType::Rslora, ..config.clone() };
        for (config, scale) in [(&config, 4.0), (&rslora, 8.0)] {
            let adapter = config.initial_adapter(&model()).unwrap();
            adapter.check("new", &model()).unwrap();
            let q = adapter.get(2, Target::Q).unwrap();
            assert_eq!((q.rank, q.scale, q.a.len()), (4, scale, 64 * 4));
        }
        for (result, expected) in [
            (of(&[("v_proj", 4)], &[]), "rank-pattern: `v_proj` matches none of the adapted"),
            (of(&[], &[("0.*", 4.0)]), "alpha-pattern: `0.*` matches none of the adapted"),
            (of(&[("(", 4)], &[]), "rank-pattern: `(` is no regular expression"),
            (of(&[("q_proj", 0)], &[]), "rank-pattern gives `q_proj` the rank 0"),
            (of(&[("q_proj", 65)], &[]), "the rank 65; it is at most the model's hidden size, 64"),
            (of(&[], &[("q_proj", f32::NAN)]), "alpha-pattern gives `q_proj` the alpha NaN"),
            (
                of(&[("q_proj", 4), (r"layers\.2.*", 8)], &[]),
                r"`layers\.2.*` and `q_proj` give `model.layers.2.self_attn.q_proj` different values",
            ),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let full = TrainConfig { adapter_type: AdapterType::Full, ..config };
        let error = full.check().unwrap_err().to_string();
        assert!(error.contains("are LoRA's; use --adapter-type lora"), "{error}");
    }
}
