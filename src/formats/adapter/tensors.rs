//! The safetensors file of an adapter, in either layout.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ::safetensors::tensor::{Dtype, TensorView, serialize};

use super::names::{Half, module};
use super::{Layout, Settings};
use crate::formats::quant::dequantize;
use crate::formats::{ByteSource, Safetensors, SafetensorsTensor};
use crate::model::{Adapter, AdapterTensors, Lora, Target};
use crate::{Error, Result};

/// A tensor as it lies in memory: (rows, cols), row-major.
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

/// Reads every update, with the ranks and scales of `settings`.
pub(super) async fn read(
    layout: Layout,
    settings: &Settings,
    source: &dyn ByteSource,
) -> Result<AdapterTensors> {
    let wrong = |problem: String| Error::format(source.name(), problem);
    let mut halves: BTreeMap<(usize, Target), [Option<Matrix>; 2]> = BTreeMap::new();
    for tensor in &Safetensors::parse(source).await?.tensors {
        let Some((layer, target, half)) = layout.parse_name(&tensor.name) else {
            let example = layout.tensor_name((0, Target::Q, Half::A));
            return Err(wrong(format!(
                "tensor `{}` is not the update of a linear layer, such as `{example}`",
                tensor.name
            )));
        };
        let matrix = read_matrix(layout, source, tensor).await?;
        let pair = halves.entry((layer, target)).or_default();
        match half {
            Half::A => pair[0] = Some(matrix),
            Half::B => pair[1] = Some(matrix),
        }
    }
    if halves.is_empty() {
        return Err(wrong("holds no tensors; it is not an adapter".into()));
    }
    let mut updates = Vec::with_capacity(halves.len());
    for ((layer, target), pair) in halves {
        let name = |half| layout.tensor_name((layer, target, half));
        let (a, b) = match pair {
            [Some(a), Some(b)] => (a, b),
            [None, _] => return Err(wrong(format!("tensor `{}` is missing", name(Half::A)))),
            [_, None] => return Err(wrong(format!("tensor `{}` is missing", name(Half::B)))),
        };
        let setting = settings(&module(layer, target));
        for (half, rank) in [(Half::A, a.cols), (Half::B, b.rows)] {
            if rank != setting.rank {
                return Err(wrong(format!(
                    "tensor `{}` has rank {rank}, but {} says {}",
                    name(half),
                    super::CONFIG_FILE,
                    setting.rank
                )));
            }
        }
        let scale = setting.scale as f32;
        if !scale.is_finite() {
            let (path, scale) = (module(layer, target), setting.scale);
            return Err(wrong(format!("the scale of `{path}` is {scale}, beyond 32-bit floats")));
        }
        updates.push((
            (layer, target),
            Lora { a: a.values, b: b.values, rank: a.cols, scale, magnitude: None },
        ));
    }
    Ok(Adapter::new(updates))
}

async fn read_matrix(
    layout: Layout,
    source: &dyn ByteSource,
    tensor: &SafetensorsTensor,
) -> Result<Matrix> {
    let wrong =
        |problem| Err(Error::format(source.name(), format!("tensor `{}` {problem}", tensor.name)));
    let &[rows, cols] = &tensor.shape[..] else {
        return wrong(format!("has shape {:?}; it should be a matrix", tensor.shape));
    };
    if rows == 0 || cols == 0 {
        return wrong(format!("has shape {:?}; it is empty", tensor.shape));
    }
    let dtype = tensor.float_dtype(source.name())?;
    let Ok(length) = usize::try_from(tensor.bytes) else {
        return wrong("is too large for this machine".into());
    };
    // The header was checked against the file, which is at least that long.
    let mut bytes = vec![0; length];
    source.read_at(tensor.offset, &mut bytes).await?;
    let mut values = vec![0.0; rows * cols];
    dequantize(dtype, &bytes, &mut values)?;
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return wrong(format!("holds {value}"));
    }
    Ok(match layout {
        Layout::Mlx => Matrix { rows, cols, values },
        Layout::Peft => Matrix { rows: cols, cols: rows, values: transposed(&values, cols) },
    })
}

/// The transpose of row-major `values` (rows, cols).
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| values[j..].iter().step_by(cols).copied()).collect()
}

/// The safetensors file of an adapter that was checked for its model, in f32.
pub(super) fn write(layout: Layout, adapter: &AdapterTensors) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (layer, target, lora) in adapter.iter() {
        let (a_shape, b_shape) =
            ([lora.a.len() / lora.rank, lora.rank], [lora.rank, lora.b.len() / lora.rank]);
        for (half, values, shape) in [(Half::A, &lora.a, a_shape), (Half::B, &lora.b, b_shape)] {
            let (shape, values) = match layout {
                Layout::Mlx => (shape, Cow::Borrowed(&values[..])),
                Layout::Peft => ([shape[1], shape[0]], transposed(values, shape[1]).into()),
            };
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
            tensors.push((layout.tensor_name((layer, target, half)), shape, bytes));
        }
    }
    // What either library writes there: the framework.
    let framework = match layout {
        Layout::Mlx => "mlx",
        Layout::Peft => "pt",
    };
    let metadata = [("format".to_owned(), framework.to_owned())].into_iter().collect();
    let refused = |error| Error::invalid(format!("the adapter can't be written: {error}"));
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    serialize(views, Some(metadata)).map_err(refused)
}
