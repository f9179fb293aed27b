//! A model's weights on their way into a file.

use std::borrow::Cow;
use std::ops::Range;

use super::metadata;
use crate::formats::names::{from_gguf, has_rotary_rows, promised, to_gguf};
use crate::formats::quant::dequantize;
use crate::formats::{
    Announced, Checkpoint, DType, Gguf, TensorInfo, gguf_header, is_writable, quantize,
    safetensors_header,
};
use crate::model::{AdapterTensors, Lora, Module, RopeScaling};
use crate::{Error, Result};

/// Values that are converted at a time.
const CHUNK: usize = 1 << 18;

/// A file of a model's weights, of which nothing is in memory but the header: the tensors are read,
/// changed and handed on a megabyte at a time.
pub struct Export<'a> {
    checkpoint: &'a Checkpoint,
    adapter: Option<&'a AdapterTensors>,
    header: Vec<u8>,
    parts: Vec<Part>,
    /// What each tensor is filled up to, in bytes.
    alignment: u64,
}

/// A tensor to write.
struct Part {
    source: Source,
    stored: Announced,
    /// Width of the heads whose rotary pairs the file interleaves.
    interleaved: Option<usize>,
}

enum Source {
    /// A tensor of the checkpoint, by Hugging Face's name.
    Tensor(String),
    /// A vector that the checkpoint does not have.
    Values(Vec<f32>),
}

impl<'a> Export<'a> {
    /// A GGUF file as llama.cpp reads it, called `name` in its metadata if it was not GGUF before.
    ///
    /// Without `dtype` tensors keep their types, but for K-quants that an `adapter` changes, which
    /// become Q8_0, and vectors of safetensors, which become F32. With one, the matrices get it as
    /// in llama.cpp's own files: vectors are F32, the output's table is Q8_0 for a smaller type
    /// (llama.cpp has Q6_K where rows are long enough), and rows that are not whole blocks F16.
    ///
    /// # Errors
    /// An adapter of another model, a `dtype` that is not [writable](is_writable), a tokenizer that
    /// GGUF has no words for, and what reading the header gives.
    pub async fn gguf(
        checkpoint: &'a Checkpoint,
        adapter: Option<&'a AdapterTensors>,
        dtype: Option<DType>,
        name: &str,
    ) -> Result<Self> {
        check(checkpoint, adapter, dtype)?;
        let config = &checkpoint.config;
        let original = match checkpoint.gguf() {
            Some(source) => Some((source, Gguf::parse(source).await?)),
            None => None,
        };
        // Hugging Face's names and GGUF's, in the file's order or the model's.
        let names: Vec<(String, String)> = match &original {
            Some((_, gguf)) => {
                gguf.tensors.iter().map(|t| (from_gguf(&t.name), t.name.clone())).collect()
            }
            None => {
                let names = promised(config).into_iter().map(|(name, _)| name);
                names.map(|name| (name.clone(), to_gguf(&name))).collect()
            }
        };
        let part = |(name, stored_name): (String, String)| {
            let info = checkpoint.tensor(&name).ok_or_else(|| missing(&name))?;
            let is_changed = update(adapter, &name).is_some() || weight(adapter, &name).is_some();
            let dtype = gguf_dtype(checkpoint, info, dtype, is_changed);
            let stored = Announced { name: stored_name, dtype, shape: info.shape.clone() };
            let interleaved = has_rotary_rows(&name).then_some(config.head_dim);
            Ok(Part { source: Source::Tensor(name), stored, interleaved })
        };
        let mut parts: Vec<Part> = names.into_iter().map(part).collect::<Result<_>>()?;
        let (pairs, alignment) = match &original {
            Some((source, gguf)) => {
                (metadata::copied(*source, gguf, dtype).await?, gguf.metadata.alignment()?)
            }
            None => {
                if let Some(scaling @ RopeScaling::Llama3 { .. }) = &config.rope_scaling {
                    let values = scaling.factors(config.head_dim, config.rope_theta);
                    let (name, shape) = ("rope_freqs.weight".into(), vec![values.len()]);
                    let stored = Announced { name, dtype: DType::F32, shape };
                    parts.push(Part { source: Source::Values(values), stored, interleaved: None });
                }
                let dtype = dtype.unwrap_or_else(|| main_dtype(checkpoint));
                (metadata::described(checkpoint, dtype, name)?, 32)
            }
        };
        let announced: Vec<Announced> = parts.iter().map(|part| part.stored.clone()).collect();
        let header = gguf_header(&pairs, &announced, alignment)?;
        Ok(Self { checkpoint, adapter, header, parts, alignment })
    }

    /// A safetensors file as transformers reads it, all of it in `dtype`; without one tensors keep
    /// their types, and those of a quantised GGUF become F16.
    ///
    /// # Errors
    /// An adapter of another model, and a `dtype` that is not F32, F16 or BF16.
    pub fn safetensors(
        checkpoint: &'a Checkpoint,
        adapter: Option<&'a AdapterTensors>,
        dtype: Option<DType>,
    ) -> Result<Self> {
        check(checkpoint, adapter, dtype)?;
        let dtype = dtype.or_else(|| checkpoint.gguf().map(|_| folder_dtype(checkpoint)));
        let part = |(name, shape): (String, Vec<usize>)| {
            let info = checkpoint.tensor(&name).ok_or_else(|| missing(&name))?;
            let dtype = dtype.unwrap_or(info.dtype);
            let stored = Announced { name: name.clone(), dtype, shape };
            Ok(Part { source: Source::Tensor(name), stored, interleaved: None })
        };
        let parts: Vec<Part> =
            promised(&checkpoint.config).into_iter().map(part).collect::<Result<_>>()?;
        let announced: Vec<Announced> = parts.iter().map(|part| part.stored.clone()).collect();
        let header = safetensors_header(&announced)?;
        Ok(Self { checkpoint, adapter, header, parts, alignment: 1 })
    }

    /// The same safetensors in several files, of at most `most` bytes of tensors each, but for one
    /// tensor that is larger alone; the tensors keep their order.
    ///
    /// # Errors
    /// What writing a header gives.
    pub fn sharded(self, most: u64) -> Result<Vec<Self>> {
        let mut shards: Vec<Vec<Part>> = Vec::new();
        let mut size = 0;
        for part in self.parts {
            let bytes = part.stored.bytes()?;
            match shards.last_mut().filter(|_| bytes <= most && size <= most - bytes) {
                Some(shard) => {
                    shard.push(part);
                    size += bytes;
                }
                None => {
                    shards.push(vec![part]);
                    size = bytes;
                }
            }
        }
        let shard = |parts: Vec<Part>| {
            let announced: Vec<Announced> = parts.iter().map(|part| part.stored.clone()).collect();
            let (header, alignment) = (safetensors_header(&announced)?, self.alignment);
            let (checkpoint, adapter) = (self.checkpoint, self.adapter);
            Ok(Self { checkpoint, adapter, header, parts, alignment })
        };
        shards.into_iter().map(shard).collect()
    }

    /// The file's length in bytes.
    pub fn bytes(&self) -> Result<u64> {
        self.parts.iter().try_fold(self.header.len() as u64, |sum, part| {
            Ok(sum + part.stored.bytes()?.next_multiple_of(self.alignment))
        })
    }

    /// Its tensors, in order.
    pub fn tensors(&self) -> impl Iterator<Item = &Announced> {
        self.parts.iter().map(|part| &part.stored)
    }

    /// Hands the file on, piece by piece.
    ///
    /// # Errors
    /// What reading or `out` gives, and a weight that its type can't hold.
    pub async fn write(&self, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        out(&self.header)?;
        for part in &self.parts {
            match &part.source {
                Source::Values(values) => out(&quantize(part.stored.dtype, values)?)?,
                Source::Tensor(name) => self.write_tensor(part, name, out).await?,
            }
            let bytes = part.stored.bytes()?;
            let padding = bytes.next_multiple_of(self.alignment) - bytes;
            out(&vec![0; padding as usize])?;
        }
        Ok(())
    }

    async fn write_tensor(
        &self,
        part: &Part,
        name: &str,
        out: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let info = self.checkpoint.tensor(name).ok_or_else(|| missing(name))?;
        let heads = part.interleaved.filter(|_| info.shape.len() > 1).unwrap_or(1);
        let at_once = (CHUNK / info.columns().max(1)).max(1).next_multiple_of(heads);
        for start in (0..info.rows()).step_by(at_once) {
            let rows = start..info.rows().min(start + at_once);
            // The values of a bias are permuted as the rows of a weight are.
            let units = if info.shape.len() > 1 { rows.len() } else { info.columns() };
            let bytes = self.rows(info, rows, part.stored.dtype).await?;
            match part.interleaved {
                None => out(&bytes)?,
                Some(head) => out(&interleaved(&bytes, bytes.len() / units, head))?,
            }
        }
        Ok(())
    }

    /// Rows of a tensor in `dtype`, with what the adapter makes of them.
    async fn rows(&self, info: &TensorInfo, rows: Range<usize>, dtype: DType) -> Result<Vec<u8>> {
        let name = &info.name;
        let update = update(self.adapter, name);
        let range = rows.start * info.columns()..rows.end * info.columns();
        let mut values = match weight(self.adapter, name).and_then(|all| all.get(range.clone())) {
            Some(weight) => weight.to_vec(),
            None => {
                let mut bytes = Vec::new();
                self.checkpoint.read_rows(name, rows.clone(), &mut bytes).await?;
                if update.is_none() && dtype == info.dtype {
                    return Ok(bytes);
                }
                let mut values = vec![0.0; range.len()];
                dequantize(info.dtype, &bytes, &mut values)?;
                values
            }
        };
        let fused = update.map_or(Ok(()), |lora| lora.fuse(rows.start, &mut values));
        fused.and_then(|()| quantize(dtype, &values)).map_err(|error| {
            Error::format(self.checkpoint.name(), format!("tensor `{name}`: {error}"))
        })
    }
}

/// The update of the tensor of that name.
fn update<'a>(adapter: Option<&'a AdapterTensors>, name: &str) -> Option<Cow<'a, Lora<Vec<f32>>>> {
    let (module, _) = Module::split(name).filter(|(_, rest)| *rest == "weight")?;
    let update = adapter?.of(module)?;
    Some(match module {
        // Its matrix is (in, out), a linear layer's (out, in).
        Module::Embedding => Cow::Owned(update.transposed()),
        _ => Cow::Borrowed(update),
    })
}

/// The type of a tensor in a GGUF file whose matrices are to be `wanted`.
fn gguf_dtype(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    wanted: Option<DType>,
    is_changed: bool,
) -> DType {
    let is_vector = info.shape.len() < 2;
    let Some(wanted) = wanted else {
        return match info.dtype {
            _ if is_vector && checkpoint.gguf().is_none() => DType::F32,
            dtype if is_changed && !is_writable(dtype) => DType::Q8_0,
            dtype => dtype,
        };
    };
    let is_output = info.name == "lm_head.weight"
        || (checkpoint.config.tie_word_embeddings && info.name == "model.embed_tokens.weight");
    let dtype = if is_output && wanted.block_size() > 1 { DType::Q8_0 } else { wanted };
    match info.columns().is_multiple_of(dtype.block_size()) {
        _ if is_vector => DType::F32,
        true => dtype,
        false => DType::F16,
    }
}

fn check(
    checkpoint: &Checkpoint,
    adapter: Option<&AdapterTensors>,
    dtype: Option<DType>,
) -> Result<()> {
    if let Some(dtype) = dtype.filter(|&dtype| !is_writable(dtype)) {
        return Err(Error::invalid(format!("{dtype} is read, but not written; take Q8_0")));
    }
    let Some(adapter) = adapter else { return Ok(()) };
    match adapter.weights().keys().find(|name| checkpoint.tensor(name).is_none()) {
        Some(name) => Err(Error::invalid(format!("the model has no weight `{name}` to replace"))),
        None if checkpoint.config.tie_word_embeddings && !adapter.keeps_tied() => {
            Err(Error::invalid(
                "the model's head is its embedding, of which the adapter updates one alone, or both \
                 differently: fused they would be two; use the adapter beside the model",
            ))
        }
        None => adapter.check("the adapter", &checkpoint.config),
    }
}

/// The type of most of the weights.
fn main_dtype(checkpoint: &Checkpoint) -> DType {
    let widest = checkpoint.tensor("model.layers.0.mlp.down_proj.weight");
    widest.map_or(DType::F32, |info| info.dtype)
}

/// The type that a GGUF's weights get in safetensors.
fn folder_dtype(checkpoint: &Checkpoint) -> DType {
    match main_dtype(checkpoint) {
        dtype @ (DType::F32 | DType::BF16) => dtype,
        _ => DType::F16,
    }
}

/// What takes the place of the tensor of that name.
fn weight<'a>(adapter: Option<&'a AdapterTensors>, name: &str) -> Option<&'a [f32]> {
    Some(&adapter?.weights().get(name)?.values)
}

fn missing(name: &str) -> Error {
    Error::invalid(format!("the checkpoint has no tensor `{name}`"))
}

/// What llama.cpp's converter does to the rows of each head: unit `half · d/2 + pair` of `d`
/// becomes `2 · pair + half`. `bytes` are whole heads of units of `size` bytes.
fn interleaved(bytes: &[u8], size: usize, head: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head * size) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(size).zip(second.chunks_exact(size)) {
            out.extend(a);
            out.extend(b);
        }
    }
    out
}
