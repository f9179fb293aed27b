//! The names of tensors in adapter files.

use super::Layout;
use crate::model::Target;

/// One of the two matrices of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    /// (in, rank) in memory.
    A,
    /// (rank, out) in memory.
    B,
}

/// What a tensor is.
pub(super) type Key = (usize, Target, Half);

/// A linear layer's path in the model.
pub(super) fn module(layer: usize, target: Target) -> String {
    format!("model.layers.{layer}.{}", target.path())
}

impl Layout {
    const fn prefix(self) -> &'static str {
        match self {
            Layout::Mlx => "",
            Layout::Peft => "base_model.model.",
        }
    }

    const fn suffix(self, half: Half) -> &'static str {
        match (self, half) {
            (Layout::Mlx, Half::A) => ".lora_a",
            (Layout::Mlx, Half::B) => ".lora_b",
            (Layout::Peft, Half::A) => ".lora_A.weight",
            (Layout::Peft, Half::B) => ".lora_B.weight",
        }
    }

    pub(super) fn tensor_name(self, (layer, target, half): Key) -> String {
        format!("{}{}{}", self.prefix(), module(layer, target), self.suffix(half))
    }

    /// What a tensor of that name is, if it is an update of a linear layer.
    pub(super) fn parse_name(self, name: &str) -> Option<Key> {
        let rest = name.strip_prefix(self.prefix())?.strip_prefix("model.layers.")?;
        let (layer, rest) = rest.split_once('.')?;
        let with_suffix = |half| Some((rest.strip_suffix(self.suffix(half))?, half));
        let (path, half) = with_suffix(Half::A).or_else(|| with_suffix(Half::B))?;
        let target = Target::ALL.into_iter().find(|target| target.path() == path)?;
        let key = (layer.parse().ok()?, target, half);
        // `01` and `+1` would be a second name of block 1.
        (self.tensor_name(key) == name).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn names_are_those_of_mlx_and_peft() {
        let key = (14, Target::Q, Half::A);
        for (layout, name) in [
            (Layout::Mlx, "model.layers.14.self_attn.q_proj.lora_a"),
            (Layout::Peft, "base_model.model.model.layers.14.self_attn.q_proj.lora_A.weight"),
        ] {
            assert_eq!(layout.tensor_name(key), name);
            for target in Target::ALL {
                for half in [Half::A, Half::B] {
                    let key = (0, target, half);
                    assert_eq!(layout.parse_name(&layout.tensor_name(key)), Some(key));
                }
            }
        }
    }

    #[test]
    fn other_names_are_nothing() {
        for name in [
            "",
            "model.layers.14.self_attn.q_proj.lora_A.weight",
            "model.layers.14.self_attn.q_proj.m",
            "model.layers.14.q_proj.lora_a",
            "model.layers.01.self_attn.q_proj.lora_a",
            "model.layers.+1.self_attn.q_proj.lora_a",
            "model.layers.99999999999999999999.self_attn.q_proj.lora_a",
            "lm_head.lora_a",
        ] {
            assert_eq!(Layout::Mlx.parse_name(name), None, "{name}");
        }
    }
}
