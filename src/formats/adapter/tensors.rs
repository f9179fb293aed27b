//! The tensors of an adapter, in either layout.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::arrays::{self, Array};
use super::names::Part;
use super::{CONFIG_FILE, Layout, Settings};
use crate::formats::{ByteSource, Safetensors, SafetensorsTensor};
use crate::model::{Adapter, AdapterTensors, Lora, Module, NamedTensor, Target};
use crate::{Error, Result};

/// A tensor as it lies in memory: (rows, cols), row-major.
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

/// What was read of an update so far.
#[derive(Default)]
struct Parts {
    a: Option<Matrix>,
    b: Option<Matrix>,
    magnitude: Option<Vec<f32>>,
}

/// Reads every update, with the ranks and scales of `settings`, and every weight.
pub(super) async fn read(
    layout: Layout,
    settings: &Settings,
    source: &dyn ByteSource,
) -> Result<AdapterTensors> {
    let wrong = |problem: String| Error::format(source.name(), problem);
    let mut found: BTreeMap<Module, Parts> = BTreeMap::new();
    let mut weights = BTreeMap::new();
    for tensor in &Safetensors::parse(source).await?.tensors {
        let Some((module, part)) = layout.parse_name(&tensor.name) else {
            // What is trained beside it, so it is the model's; a resized one is of another shape.
            if layout.is_base_weight(&tensor.name) {
                continue;
            }
            if let Some(name) = layout.parse_weight(&tensor.name) {
                let (shape, values) = (tensor.shape.clone(), arrays::read(source, tensor).await?);
                weights.insert(name.to_owned(), NamedTensor { shape, values });
                continue;
            }
            let update = layout.tensor_name((Module::Linear(0, Target::Q), Part::A));
            let weight = layout.weight_name("model.norm.weight");
            return Err(wrong(format!(
                "tensor `{}` is neither an update, such as `{update}`, nor a \
                 weight of the model, such as `{weight}`",
                tensor.name
            )));
        };
        let parts = found.entry(module).or_default();
        match part {
            Part::A => parts.a = Some(read_matrix(layout, source, tensor).await?),
            Part::B => parts.b = Some(read_matrix(layout, source, tensor).await?),
            // It alone has two names, and so may be there twice.
            Part::Magnitude if parts.magnitude.is_some() => {
                let problem = "is a second magnitude of its layer; remove one of them";
                return Err(wrong(format!("tensor `{}` {problem}", tensor.name)));
            }
            Part::Magnitude => parts.magnitude = Some(read_vector(source, tensor).await?),
        }
    }
    if found.is_empty() && weights.is_empty() {
        return Err(wrong("holds no tensors; it is not an adapter".into()));
    }
    let is_there = |module: &String| {
        let modules = weights.keys().filter_map(|name| name.rsplit_once('.'));
        modules.into_iter().any(|(found, _)| found.ends_with(module.as_str()))
    };
    if let Some(module) = settings.modules_to_save.iter().find(|module| !is_there(module)) {
        return Err(wrong(format!(
            "has no weight of `{module}`, which {CONFIG_FILE}'s modules_to_save names; save the \
             adapter again"
        )));
    }
    let update = |(module, parts)| {
        let lora = assemble(layout, settings, module, parts).map_err(wrong)?;
        Ok((module, lora))
    };
    let updates = found.into_iter().map(update).collect::<Result<Vec<_>>>()?;
    Ok(Adapter::of_modules(updates).with_weights(weights))
}

/// The update of one layer, or what is wrong with it.
fn assemble(
    layout: Layout,
    settings: &Settings,
    module: Module,
    parts: Parts,
) -> Result<Lora<Vec<f32>>, String> {
    let name = |part| layout.tensor_name((module, part));
    let missing = |part| format!("tensor `{}` is missing", name(part));
    let a = parts.a.ok_or_else(|| missing(Part::A))?;
    let b = parts.b.ok_or_else(|| missing(Part::B))?;
    let setting = (settings.of)(&module.path());
    if setting.rank == 0 {
        let tensor = name(Part::A);
        return Err(format!("tensor `{tensor}` is of an update, which a full fine-tuning has not"));
    }
    for (part, rank) in [(Part::A, a.cols), (Part::B, b.rows)] {
        if rank != setting.rank {
            return Err(format!(
                "tensor `{}` has rank {rank}, but {CONFIG_FILE} says {}",
                name(part),
                setting.rank
            ));
        }
    }
    let scale = setting.scale as f32;
    if !scale.is_finite() {
        let (path, scale) = (module.path(), setting.scale);
        return Err(format!("the scale of `{path}` is {scale}, beyond 32-bit floats"));
    }
    let magnitude = || name(Part::Magnitude);
    let dora = layout.dora();
    match &parts.magnitude {
        None if settings.is_dora => {
            return Err(format!(
                "tensor `{}` is missing, which {CONFIG_FILE}'s {dora} asks for; save the adapter \
                 again",
                magnitude()
            ));
        }
        Some(_) if !settings.is_dora => {
            return Err(format!(
                "tensor `{}` is DoRA's, but {CONFIG_FILE} does not say {dora}; say so there",
                magnitude()
            ));
        }
        Some(_) if matches!(module, Module::Embedding | Module::Head) => {
            return Err(format!(
                "tensor `{}` is DoRA's, which is supported on the blocks' layers alone; merge the \
                 adapter with PEFT's merge_and_unload",
                magnitude()
            ));
        }
        Some(values) if values.len() != b.cols => {
            return Err(format!(
                "tensor `{}` has {} values, but its layer has {} outputs by `{}`",
                magnitude(),
                values.len(),
                b.cols,
                name(Part::B)
            ));
        }
        _ => {}
    }
    let rank = setting.rank;
    Ok(Lora { a: a.values, b: b.values, rank, scale, magnitude: parts.magnitude })
}

async fn read_matrix(
    layout: Layout,
    source: &dyn ByteSource,
    tensor: &SafetensorsTensor,
) -> Result<Matrix> {
    let &[rows, cols] = &tensor.shape[..] else {
        return Err(wrong_shape(source, tensor, "a matrix"));
    };
    let values = arrays::read(source, tensor).await?;
    Ok(match layout {
        Layout::Mlx => Matrix { rows, cols, values },
        Layout::Peft => Matrix { rows: cols, cols: rows, values: transposed(&values, cols) },
    })
}

/// A vector; a row or a column is one too, as PEFT had it of DoRA at times.
async fn read_vector(source: &dyn ByteSource, tensor: &SafetensorsTensor) -> Result<Vec<f32>> {
    match tensor.shape[..] {
        [_] | [1, _] | [_, 1] => arrays::read(source, tensor).await,
        _ => Err(wrong_shape(source, tensor, "a vector")),
    }
}

fn wrong_shape(source: &dyn ByteSource, tensor: &SafetensorsTensor, expected: &str) -> Error {
    let SafetensorsTensor { name, shape, .. } = tensor;
    let problem = format!("tensor `{name}` has shape {shape:?}; it should be {expected}");
    Error::format(source.name(), problem)
}

/// The transpose of row-major `values` (rows, cols).
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| values[j..].iter().step_by(cols).copied()).collect()
}

/// The safetensors file of an adapter that was checked for its model, in f32.
pub(super) fn write(layout: Layout, adapter: &AdapterTensors) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (module, lora) in adapter.modules() {
        let name = |part| layout.tensor_name((module, part));
        let (a_shape, b_shape) =
            ([lora.a.len() / lora.rank, lora.rank], [lora.rank, lora.b.len() / lora.rank]);
        for (part, values, shape) in [(Part::A, &lora.a, a_shape), (Part::B, &lora.b, b_shape)] {
            let (shape, values) = match layout {
                Layout::Mlx => (shape, Cow::Borrowed(&values[..])),
                Layout::Peft => ([shape[1], shape[0]], transposed(values, shape[1]).into()),
            };
            tensors.push(Array::new(name(part), &shape, &values));
        }
        if let Some(values) = &lora.magnitude {
            tensors.push(Array::new(name(Part::Magnitude), &[values.len()], values));
        }
    }
    for (name, weight) in adapter.weights() {
        tensors.push(Array::new(layout.weight_name(name), &weight.shape, &weight.values));
    }
    arrays::write(layout, &tensors)
}
