//! Adapters of other kinds than LoRA, in PEFT's layout. What their tensors and settings mean is for
//! others to know.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::arrays::{self, Array};
use super::names::PEFT_PREFIX;
use super::{AdapterFiles, Layout};
use crate::formats::{ByteSource, Safetensors};
use crate::model::{Module, NamedAdapter, NamedTensor};
use crate::{Error, Result};

/// `peft_type` of LoRA, which is no [`NamedAdapter`].
pub(super) const LORA: &str = "LORA";

const KIND_FIELD: &str = "peft_type";
const MODEL_FIELD: &str = "base_model_name_or_path";

/// A name of a tensor, for errors.
const EXAMPLE: &str = "model.layers.0.self_attn.o_proj.down.weight";

/// The config of an adapter without tensors yet, if `config_json` is that of a kind in
/// `known_kinds`; none if it is LoRA's.
///
/// # Errors
/// Another kind, and what is not JSON.
pub(super) fn config(
    name: &str,
    config_json: &[u8],
    known_kinds: &[&str],
) -> Result<Option<NamedAdapter>> {
    let mut config: Map<String, Value> = serde_json::from_slice(config_json)
        .map_err(|error| Error::format(name, error.to_string()))?;
    match config.remove(KIND_FIELD).unwrap_or_default() {
        Value::String(kind) if kind == LORA => Ok(None),
        Value::String(kind) if is_kind(&kind) && known_kinds.contains(&&kind[..]) => {
            Ok(Some(NamedAdapter { kind, config, tensors: BTreeMap::new() }))
        }
        other => {
            let kind = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            let supported = [&[LORA][..], known_kinds].concat().join(", ");
            Err(Error::format(name, format!("{KIND_FIELD} is `{kind}`; supported: {supported}")))
        }
    }
}

/// Whether a `peft_type` may be that of a [`NamedAdapter`].
fn is_kind(kind: &str) -> bool {
    let is_capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    !kind.is_empty() && kind.chars().all(is_capital) && kind != LORA
}

/// Whether a parameter of that name is of a linear layer of a block.
fn is_of_linear(name: &str) -> bool {
    matches!(Module::split(name), Some((Module::Linear(..), _)))
}

/// Reads every tensor of `source`, by its name without PEFT's prefix.
pub(super) async fn read(
    source: &dyn ByteSource,
    kind: &str,
) -> Result<BTreeMap<String, NamedTensor>> {
    let wrong = |problem: String| Err(Error::format(source.name(), problem));
    let mut tensors = BTreeMap::new();
    for tensor in &Safetensors::parse(source).await?.tensors {
        let name = tensor.name.strip_prefix(PEFT_PREFIX).filter(|name| is_of_linear(name));
        let Some(name) = name else {
            return wrong(format!(
                "tensor `{}` is not a {kind} adapter's of a linear layer, such as \
                 `{PEFT_PREFIX}{EXAMPLE}`",
                tensor.name
            ));
        };
        let values = arrays::read(source, tensor).await?;
        tensors.insert(name.to_owned(), NamedTensor { shape: tensor.shape.clone(), values });
    }
    if tensors.is_empty() {
        return wrong("holds no tensors; it is not an adapter".into());
    }
    Ok(tensors)
}

/// PEFT's files of an adapter of another kind than LoRA.
///
/// `base_model` is the model's name or path; it takes the place of what the adapter's config says.
///
/// # Errors
/// An adapter that [`read`](super::read) would not read again: a kind not in capitals or LORA, no
/// tensors, a name that is not of a linear layer, values that are not as many as the shape says or
/// not finite.
pub fn write(adapter: &NamedAdapter, base_model: &str) -> Result<AdapterFiles> {
    let NamedAdapter { kind, config, tensors } = adapter;
    if !is_kind(kind) {
        return Err(Error::invalid(format!(
            "the adapter's kind is `{kind}`; it must be in capitals, and another than {LORA}"
        )));
    }
    if tensors.is_empty() {
        return Err(Error::invalid("the adapter has no tensors; there is nothing to write"));
    }
    tensors.iter().try_for_each(|(name, tensor)| check(name, tensor))?;
    let mut config = config.clone();
    config.insert(KIND_FIELD.into(), kind.clone().into());
    config.insert(MODEL_FIELD.into(), base_model.into());
    let arrays: Vec<Array> = tensors
        .iter()
        .map(|(name, t)| Array::new(format!("{PEFT_PREFIX}{name}"), &t.shape, &t.values))
        .collect();
    Ok(AdapterFiles {
        layout: Layout::Peft,
        config_json: format!("{:#}\n", Value::Object(config)).into_bytes(),
        weights: arrays::write(Layout::Peft, &arrays)?,
    })
}

fn check(name: &str, NamedTensor { shape, values }: &NamedTensor) -> Result<()> {
    let wrong = |problem: String| Err(Error::invalid(format!("tensor `{name}` {problem}")));
    if !is_of_linear(name) {
        return wrong(format!("is not of a linear layer, such as `{EXAMPLE}`"));
    }
    let count = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
    if values.is_empty() || count != Some(values.len()) {
        return wrong(format!("has {} values and shape {shape:?}", values.len()));
    }
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => wrong(format!("holds {value}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ::safetensors::tensor::{Dtype, TensorView, serialize};
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::tests::{json_of, problem, read_any, tensor};
    use super::*;
    use crate::formats::Bytes;
    use crate::formats::adapter::{CONFIG_FILE, read as read_adapter, write_named};
    use crate::model::AnyAdapter;
    use crate::testing::test;

    const DOWN: &str = "model.layers.1.self_attn.o_proj.down.weight";

    fn bottleneck() -> NamedAdapter {
        let config = json!({
            "base_model_name_or_path": "org/model", "bottleneck_size": 2, "layers_to_transform": [1],
        });
        let Value::Object(config) = config else { unreachable!() };
        let array = |shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|i: usize| 0.5 + i as f32 / 7.0).collect();
            NamedTensor { shape: shape.to_vec(), values }
        };
        let tensors = [
            (DOWN, array(&[2, 6])),
            ("model.layers.1.self_attn.o_proj.down.bias", array(&[2])),
            ("model.layers.2.mlp.down_proj.gain", array(&[])),
            ("model.layers.2.mlp.down_proj.up.kernel.0", array(&[2, 1, 3])),
        ];
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        NamedAdapter { kind: "BOTTLENECK".into(), config, tensors }
    }

    #[test]
    fn another_kind_comes_back_as_it_was() {
        let adapter = bottleneck();
        let files = write_named(&adapter, "org/model").unwrap();
        assert_eq!(files.layout, Layout::Peft);
        assert_eq!(Layout::detect("", &files.config_json).unwrap(), Layout::Peft);
        let expected = json!({
            "peft_type": "BOTTLENECK", "base_model_name_or_path": "org/model", "bottleneck_size": 2,
            "layers_to_transform": [1],
        });
        assert_eq!(json_of(&files), expected);
        let any = read_any(&files).unwrap();
        assert_eq!(any.count(), 12 + 2 + 1 + 6);
        assert_eq!(any, AnyAdapter::Named(adapter.clone()));
        let problem = any.lora("mine").unwrap_err().to_string();
        assert_eq!(problem, "mine: is a BOTTLENECK adapter, which needs --engine burn");

        // Who writes it says what its model and its kind are.
        let stale = json!({"base_model_name_or_path": "old", "peft_type": "OLD"});
        let Value::Object(config) = stale else { unreachable!() };
        let files = write_named(&NamedAdapter { config, ..adapter }, "new").unwrap();
        let expected = json!({"peft_type": "BOTTLENECK", "base_model_name_or_path": "new"});
        assert_eq!(json_of(&files), expected);
    }

    #[test]
    fn what_is_wrong_with_another_kind_is_named() {
        let config = json!({"peft_type": "BOTTLENECK"});
        let with = |name: &str, dtype, shape: &[usize], data: &[u8]| {
            problem(&config, Some(tensor(name, dtype, shape, data)))
        };
        let prefixed =
            |name: &str| with(&format!("base_model.model.{name}"), Dtype::F32, &[1], &[0; 4]);
        let down = &format!("base_model.model.{DOWN}");
        let none: [(&str, TensorView<'_>); 0] = [];
        let example = "is not a BOTTLENECK adapter's of a linear layer, such as \
                       `base_model.model.model.layers.0.self_attn.o_proj.down.weight`";
        for (problem, named) in [
            (with(DOWN, Dtype::F32, &[1], &[0; 4]), example),
            (prefixed("lm_head.down.weight"), example),
            (prefixed("model.layers.1.self_attn.o_proj"), example),
            (prefixed("model.layers.1.self_attn.o_proj."), example),
            (prefixed("model.layers.1.self_attn.down.weight"), example),
            (prefixed("model.layers.01.self_attn.o_proj.down.weight"), example),
            (with(down, Dtype::I32, &[1], &[0; 4]), "has type I32; supported: F32, F16, BF16"),
            (with(down, Dtype::F32, &[2, 0], &[]), "has shape [2, 0]; it is empty"),
            (with(down, Dtype::F32, &[1], &f32::INFINITY.to_le_bytes()), "down.weight` holds inf"),
            (problem(&config, Some(serialize(none, None).unwrap())), "holds no tensors"),
            (problem(&config, Some(vec![1; 7])), "ends at byte 7"),
        ] {
            assert!(problem.starts_with("adapter_model.safetensors: "), "{problem}");
            assert!(problem.contains(named), "{problem}");
        }
    }

    #[test]
    fn a_kind_is_in_capitals_and_known() {
        let read = |kind: &str, known: &[&str]| {
            let files = write_named(&bottleneck(), "m").unwrap();
            let config = json!({"peft_type": kind}).to_string();
            let weights = Bytes::new("adapter_model.safetensors", files.weights);
            pollster::block_on(read_adapter(
                CONFIG_FILE,
                config.as_bytes(),
                Box::new(weights),
                known,
                None,
            ))
        };
        assert!(read("BOTTLENECK", &["BOTTLENECK"]).is_ok());
        for (kind, known, supported) in [
            ("BOTTLENECK", &[][..], "LORA"),
            ("BOTTLENECK", &["OTHER"], "LORA, OTHER"),
            ("bottleneck", &["bottleneck"], "LORA, bottleneck"),
            ("", &[""], "LORA, "),
        ] {
            let problem = read(kind, known).unwrap_err().to_string();
            let expected =
                format!("adapter_config.json: peft_type is `{kind}`; supported: {supported}");
            assert_eq!(problem, expected);
        }
    }

    #[test]
    fn another_kind_that_could_not_be_read_is_not_written() {
        let problem = |change: fn(&mut NamedAdapter)| {
            let mut adapter = bottleneck();
            change(&mut adapter);
            write_named(&adapter, "m").unwrap_err().to_string()
        };
        for (problem, named) in [
            (
                problem(|adapter| adapter.kind = "LORA".into()),
                "kind is `LORA`; it must be in capitals",
            ),
            (problem(|adapter| adapter.kind = "Bottle".into()), "kind is `Bottle`"),
            (problem(|adapter| adapter.kind.clear()), "kind is ``"),
            (problem(|adapter| adapter.tensors.clear()), "has no tensors"),
            (
                problem(|adapter| {
                    let tensor = adapter.tensors.remove(DOWN).unwrap();
                    adapter.tensors.insert("down".into(), tensor);
                }),
                "tensor `down` is not of a linear layer, such as `model.layers.0.",
            ),
            (
                problem(|adapter| adapter.tensors.get_mut(DOWN).unwrap().shape.push(2)),
                "down.weight` has 12 values and shape [2, 6, 2]",
            ),
            (
                problem(|adapter| {
                    adapter.tensors.get_mut(DOWN).unwrap().shape = vec![usize::MAX, 2]
                }),
                "down.weight` has 12 values",
            ),
            (
                problem(|adapter| {
                    let empty = NamedTensor { shape: vec![0], values: Vec::new() };
                    adapter.tensors.insert(DOWN.into(), empty);
                }),
                "down.weight` has 0 values and shape [0]",
            ),
            (
                problem(|adapter| adapter.tensors.get_mut(DOWN).unwrap().values[3] = f32::NAN),
                "down.weight` holds NaN",
            ),
        ] {
            assert!(problem.contains(named), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn no_damage_of_another_kind_panics(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            of_config: bool,
        ) {
            let mut files = write_named(&bottleneck(), "m").unwrap();
            let bytes = if of_config { &mut files.config_json } else { &mut files.weights };
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(AnyAdapter::Named(read)) = read_any(&files) {
                prop_assert!(write_named(&read, "m").is_ok());
            }
        }
    }
}
