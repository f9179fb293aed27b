//! Arrays in an adapter's safetensors file, whatever they mean.

use ::safetensors::tensor::{Dtype, TensorView, serialize};

use super::Layout;
use crate::formats::quant::dequantize;
use crate::formats::{ByteSource, SafetensorsTensor};
use crate::{Error, Result};

/// The values of `tensor`, row-major.
///
/// # Errors
/// When it is empty, not F32, F16 or BF16, or holds a number that is not finite.
pub(super) async fn read(source: &dyn ByteSource, tensor: &SafetensorsTensor) -> Result<Vec<f32>> {
    let wrong =
        |problem| Err(Error::format(source.name(), format!("tensor `{}` {problem}", tensor.name)));
    if tensor.shape.contains(&0) {
        return wrong(format!("has shape {:?}; it is empty", tensor.shape));
    }
    let dtype = tensor.float_dtype(source.name())?;
    // The header was checked: the product fits, and the file is at least that long.
    let count: u64 = tensor.shape.iter().map(|&size| size as u64).product();
    // In a page, f32 may be too large where half of it is not.
    let most = tensor.bytes.max(count.saturating_mul(4));
    let (Ok(length), Ok(count), true) =
        (usize::try_from(tensor.bytes), usize::try_from(count), isize::try_from(most).is_ok())
    else {
        return wrong("is too large for this machine".into());
    };
    let mut bytes = vec![0; length];
    source.read_at(tensor.offset, &mut bytes).await?;
    let mut values = vec![0.0; count];
    dequantize(dtype, &bytes, &mut values)?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => wrong(format!("holds {value}")),
        None => Ok(values),
    }
}

/// An array to write.
pub(super) struct Array {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    pub(super) fn new(name: String, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name, shape: shape.to_vec(), bytes }
    }
}

/// The safetensors file of `arrays`, in f32.
pub(super) fn write(layout: Layout, arrays: &[Array]) -> Result<Vec<u8>> {
    // What either library writes there: the framework.
    let framework = match layout {
        Layout::Mlx => "mlx",
        Layout::Peft => "pt",
    };
    let metadata = [("format".to_owned(), framework.to_owned())].into_iter().collect();
    let refused = |error| Error::invalid(format!("the adapter can't be written: {error}"));
    let views = arrays
        .iter()
        .map(|Array { name, shape, bytes }| {
            Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    serialize(views, Some(metadata)).map_err(refused)
}
