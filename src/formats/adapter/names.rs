//! The names of tensors in adapter files.

use super::Layout;
use crate::model::Module;

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
pub(super) type Key = (Module, Part);

/// PEFT's prefix of every name: its own wrapper, and transformers' model in it.
pub(super) const PEFT_PREFIX: &str = "base_model.model.";

/// What PEFT's DoRA layers call their magnitude; `save_pretrained` takes the end off.
const PEFT_MAGNITUDE_IN_MEMORY: &str = "lora_magnitude_vector.weight";

impl Layout {
    const fn prefix(self) -> &'static str {
        match self {
            Layout::Mlx => "",
            Layout::Peft => PEFT_PREFIX,
        }
    }

    const fn part_name(self, module: Module, part: Part) -> &'static str {
        match (self, module, part) {
            (Layout::Mlx, _, Part::A) => "lora_a",
            (Layout::Mlx, _, Part::B) => "lora_b",
            (Layout::Mlx, _, Part::Magnitude) => "m",
            (Layout::Peft, Module::Embedding, Part::A) => "lora_embedding_A",
            (Layout::Peft, Module::Embedding, Part::B) => "lora_embedding_B",
            (Layout::Peft, _, Part::A) => "lora_A.weight",
            (Layout::Peft, _, Part::B) => "lora_B.weight",
            (Layout::Peft, _, Part::Magnitude) => "lora_magnitude_vector",
        }
    }

    pub(super) fn tensor_name(self, (module, part): Key) -> String {
        format!("{}{}.{}", self.prefix(), module.path(), self.part_name(module, part))
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

    /// Whether a tensor of that name is a frozen weight of the model, which PEFT saves beside the
    /// update of an embedding or a head.
    pub(super) fn is_base_weight(self, name: &str) -> bool {
        let module = name.strip_prefix(self.prefix()).and_then(Module::split);
        self == Layout::Peft
            && matches!(module, Some((Module::Embedding | Module::Head, "base_layer.weight")))
    }

    /// What a tensor of that name is, if it is of the update of a module.
    pub(super) fn parse_name(self, name: &str) -> Option<Key> {
        let (module, rest) = Module::split(name.strip_prefix(self.prefix())?)?;
        if self == Layout::Peft && rest == PEFT_MAGNITUDE_IN_MEMORY {
            return Some((module, Part::Magnitude));
        }
        let parts = [Part::A, Part::B, Part::Magnitude];
        let part = parts.into_iter().find(|&part| self.part_name(module, part) == rest)?;
        Some((module, part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Target;
    use crate::testing::test;

    #[test]
    fn names_are_those_of_mlx_and_peft() {
        let key = |part| (Module::Linear(14, Target::Q), part);
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
            let linears = Target::ALL.map(|target| Module::Linear(0, target));
            for module in [&[Module::Embedding, Module::Head], &linears[..]].concat() {
                for part in [Part::A, Part::B, Part::Magnitude] {
                    let key = (module, part);
                    assert_eq!(layout.parse_name(&layout.tensor_name(key)), Some(key));
                }
            }
        }
        for (layout, module, name) in [
            (Layout::Mlx, Module::Embedding, "model.embed_tokens.lora_a"),
            (Layout::Mlx, Module::Head, "lm_head.lora_a"),
            (
                Layout::Peft,
                Module::Embedding,
                "base_model.model.model.embed_tokens.lora_embedding_A",
            ),
            (Layout::Peft, Module::Head, "base_model.model.lm_head.lora_A.weight"),
        ] {
            assert_eq!(layout.tensor_name((module, Part::A)), name);
        }
        for (layout, name, is_base) in [
            (Layout::Peft, "base_model.model.model.embed_tokens.base_layer.weight", true),
            (Layout::Peft, "base_model.model.lm_head.base_layer.weight", true),
            (Layout::Peft, "base_model.model.model.norm.base_layer.weight", false),
            (Layout::Mlx, "lm_head.base_layer.weight", false),
        ] {
            assert_eq!(layout.is_base_weight(name), is_base, "{name}");
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
            "lm_head.lora_A.weight",
            "lm_head.",
            "lm_head",
            "embed_tokens.lora_a",
        ] {
            assert_eq!(Layout::Mlx.parse_name(name), None, "{name}");
        }
        let up = Module::Linear(1, Target::Up);
        assert_eq!(Module::split("model.layers.1.mlp.up_proj.a.b"), Some((up, "a.b")));
        assert_eq!(Module::split("model.layers.1.mlp.up_proj2.a"), None);
    }
}
