//! The names of tensors in adapter files.

use super::Layout;
use crate::model::Target;

/// One of the arrays of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// (in, rank) in memory.
    A,
    /// (rank, out) in memory.
    B,
    /// DoRA's (out).
    Magnitude,
}

/// What a tensor is.
pub(super) type Key = (usize, Target, Part);

/// PEFT's prefix of every name: its own wrapper, and transformers' model in it.
pub(super) const PEFT_PREFIX: &str = "base_model.model.";

/// What PEFT's DoRA layers call their magnitude; `save_pretrained` takes the end off.
const PEFT_MAGNITUDE_IN_MEMORY: &str = "lora_magnitude_vector.weight";

/// A linear layer's path in the model.
pub(super) fn module(layer: usize, target: Target) -> String {
    format!("model.layers.{layer}.{}", target.path())
}

/// What a name such as `model.layers.14.self_attn.q_proj.lora_a` says of it: the linear layer, and
/// the rest, which is not empty.
pub(super) fn split(name: &str) -> Option<(usize, Target, &str)> {
    let (digits, path) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = digits.parse().ok()?;
    // `01` and `+1` would be a second name of block 1.
    if layer.to_string() != digits {
        return None;
    }
    Target::ALL.into_iter().find_map(|target| {
        let rest = path.strip_prefix(target.path())?.strip_prefix('.')?;
        (!rest.is_empty()).then_some((layer, target, rest))
    })
}

impl Layout {
    const fn prefix(self) -> &'static str {
        match self {
            Layout::Mlx => "",
            Layout::Peft => PEFT_PREFIX,
        }
    }

    const fn part_name(self, part: Part) -> &'static str {
        match (self, part) {
            (Layout::Mlx, Part::A) => "lora_a",
            (Layout::Mlx, Part::B) => "lora_b",
            (Layout::Mlx, Part::Magnitude) => "m",
            (Layout::Peft, Part::A) => "lora_A.weight",
            (Layout::Peft, Part::B) => "lora_B.weight",
            (Layout::Peft, Part::Magnitude) => "lora_magnitude_vector",
        }
    }

    pub(super) fn tensor_name(self, (layer, target, part): Key) -> String {
        format!("{}{}.{}", self.prefix(), module(layer, target), self.part_name(part))
    }

    /// What a weight of the model, such as `model.norm.weight`, is called in the adapter's file.
    pub(super) fn weight_name(self, weight: &str) -> String {
        format!("{}{weight}", self.prefix())
    }

    /// The weight of the model that a tensor of that name takes the place of, if it may be one.
    pub(super) fn parse_weight(self, name: &str) -> Option<&str> {
        let weight = name.strip_prefix(self.prefix())?;
        let (module, which) = weight.rsplit_once('.')?;
        let of_model = module.starts_with("model.") || module == "lm_head";
        (of_model && matches!(which, "weight" | "bias") && !weight.contains(".lora_"))
            .then_some(weight)
    }

    /// What a tensor of that name is, if it is of the update of a linear layer.
    pub(super) fn parse_name(self, name: &str) -> Option<Key> {
        let (layer, target, rest) = split(name.strip_prefix(self.prefix())?)?;
        if self == Layout::Peft && rest == PEFT_MAGNITUDE_IN_MEMORY {
            return Some((layer, target, Part::Magnitude));
        }
        let parts = [Part::A, Part::B, Part::Magnitude];
        let part = parts.into_iter().find(|&part| self.part_name(part) == rest)?;
        Some((layer, target, part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn names_are_those_of_mlx_and_peft() {
        let key = |part| (14, Target::Q, part);
        let (mlx, peft) = (
            "model.layers.14.self_attn.q_proj.",
            "base_model.model.model.layers.14.self_attn.q_proj.",
        );
        for (layout, part, name) in [
            (Layout::Mlx, Part::A, format!("{mlx}lora_a")),
            (Layout::Mlx, Part::Magnitude, format!("{mlx}m")),
            (Layout::Peft, Part::A, format!("{peft}lora_A.weight")),
            (Layout::Peft, Part::Magnitude, format!("{peft}lora_magnitude_vector")),
        ] {
            assert_eq!(layout.tensor_name(key(part)), name);
            for target in Target::ALL {
                for part in [Part::A, Part::B, Part::Magnitude] {
                    let key = (0, target, part);
                    assert_eq!(layout.parse_name(&layout.tensor_name(key)), Some(key));
                }
            }
        }
        let in_memory = format!("{peft}lora_magnitude_vector.weight");
        assert_eq!(Layout::Peft.parse_name(&in_memory), Some(key(Part::Magnitude)));
        assert_eq!(Layout::Mlx.parse_name(&in_memory), None);
    }

    #[test]
    fn weights_keep_the_models_names() {
        for (layout, prefix) in [(Layout::Mlx, ""), (Layout::Peft, "base_model.model.")] {
            for weight in ["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.a.bias"] {
                let name = layout.weight_name(weight);
                assert_eq!(name, format!("{prefix}{weight}"));
                assert_eq!(layout.parse_weight(&name), Some(weight));
            }
        }
        let peft = "base_model.model.model.layers.1.self_attn.q_proj.lora_C.weight";
        assert_eq!(Layout::Peft.parse_weight(peft), None);
        for name in ["", "model.norm", "model.norm.gain", "head.weight", "transformer.h.0.weight"] {
            assert_eq!(Layout::Mlx.parse_weight(name), None, "{name}");
        }
    }

    #[test]
    fn other_names_are_nothing() {
        for name in [
            "",
            "model.layers.14.self_attn.q_proj.lora_A.weight",
            "model.layers.14.self_attn.q_proj.lora_magnitude_vector",
            "model.layers.14.self_attn.q_proj.",
            "model.layers.14.self_attn.q_proj",
            "model.layers.14.q_proj.lora_a",
            "model.layers.01.self_attn.q_proj.lora_a",
            "model.layers.+1.self_attn.q_proj.lora_a",
            "model.layers.99999999999999999999.self_attn.q_proj.lora_a",
            "lm_head.lora_a",
        ] {
            assert_eq!(Layout::Mlx.parse_name(name), None, "{name}");
        }
        assert_eq!(split("model.layers.1.mlp.up_proj.a.b"), Some((1, Target::Up, "a.b")));
        assert_eq!(split("model.layers.1.mlp.up_proj2.a"), None);
    }
}
