//! One view of a model's files, whichever format they are in.

use std::collections::BTreeMap;
use std::ops::Range;

use super::gguf_config::{GgufTokenizer, llama3_scaling};
use super::{ByteSource, DType, Gguf, names, quant};
use crate::model::ModelConfig;
use crate::{Error, Result};

/// A model's description and where its weights lie; the weights stay in their files until
/// [`Self::read_rows`].
///
/// Tensors have Hugging Face's names and shapes (`[out, in]`), from GGUF too. The one tensor of
/// GGUF without such a name, `rope_freqs.weight`, keeps its own; what it says is in
/// [`ModelConfig::rope_scaling`].
pub struct Checkpoint {
    /// The architecture.
    pub config: ModelConfig,
    /// What the tokenizer is made from.
    pub tokenizer: TokenizerFile,
    /// The Jinja template that makes a prompt of a chat.
    pub chat_template: Option<String>,
    /// The text of the start token, which a chat template may use.
    pub bos_token: Option<String>,
    /// The text of the end token, which a chat template may use.
    pub eos_token: Option<String>,
    pub(super) sources: Vec<Box<dyn ByteSource>>,
    pub(super) tensors: BTreeMap<String, Stored>,
}

/// What a tokenizer is made from.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerFile {
    /// The bytes of `tokenizer.json`.
    Json(Vec<u8>),
    /// The metadata of a GGUF file.
    Gguf(GgufTokenizer),
}

/// A tensor of a [`Checkpoint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face's name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// How its values are stored.
    pub dtype: DType,
    /// Its shape, the contiguous axis last.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Rows of contiguous values: the product of all axes but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, rest)| rest.iter().product())
    }

    /// Values in a row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes in a row.
    pub fn row_bytes(&self) -> usize {
        self.columns() / self.dtype.block_size() * self.dtype.block_bytes()
    }
}

/// A tensor and its place.
pub(super) struct Stored {
    pub(super) info: TensorInfo,
    /// Index into [`Checkpoint::sources`].
    pub(super) source: usize,
    /// First byte in the source.
    pub(super) offset: u64,
    /// Width of the heads whose rotary pairs are interleaved in the file.
    pub(super) interleaved: Option<usize>,
}

impl Checkpoint {
    /// Opens a GGUF file.
    ///
    /// # Errors
    /// As [`Gguf::parse`] and [`ModelConfig::from_gguf`]; and when a tensor that the architecture
    /// needs is missing or has another shape.
    pub fn from_gguf(source: Box<dyn ByteSource>) -> Result<Self> {
        let mut gguf = Gguf::parse(source.as_ref())?;
        let mut config = ModelConfig::from_gguf(&gguf)?;
        let mut tensors = BTreeMap::new();
        for tensor in &gguf.tensors {
            let name = names::from_gguf(&tensor.name);
            let interleaved = names::has_rotary_rows(&name).then_some(config.head_dim);
            let info =
                TensorInfo { name: name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() };
            let stored = Stored { info, source: 0, offset: tensor.offset, interleaved };
            if tensors.insert(name.clone(), stored).is_some() {
                return Err(gguf.metadata.error(format!("has tensor `{name}` twice")));
            }
        }
        let tokenizer = GgufTokenizer::take(&mut gguf.metadata, config.vocab_size)?;
        let text = |id: Option<u32>| tokenizer.tokens.get(id? as usize).cloned();
        let (bos_token, eos_token) = (text(tokenizer.bos_token_id), text(tokenizer.eos_token_id));
        config.eos_token_ids.retain(|&id| (id as usize) < tokenizer.tokens.len());
        let mut checkpoint = Self {
            config,
            tokenizer: TokenizerFile::Gguf(tokenizer),
            chat_template: gguf.metadata.string("tokenizer.chat_template")?.map(str::to_owned),
            bos_token,
            eos_token,
            sources: vec![source],
            tensors,
        };
        checkpoint.check_tensors()?;
        if let Some(divisors) = checkpoint.rope_divisors()? {
            let scaling = llama3_scaling(&gguf.metadata, &checkpoint.config, &divisors)?;
            if scaling.is_some() {
                checkpoint.config.rope_scaling = scaling;
            }
        }
        Ok(checkpoint)
    }

    /// The tensor `name`, if the checkpoint has it.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|stored| &stored.info)
    }

    /// The names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Replaces `out` by the bytes of `rows` of the tensor `name`, in its own dtype, reading
    /// little more than those. A row is contiguous along the last axis; a tensor of one axis is
    /// one row. Rotary rows (`q_proj`, `k_proj`) come in Hugging Face's half-split order from
    /// either format.
    ///
    /// # Errors
    /// When there is no such tensor or row, or the source fails.
    pub fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        let Some(stored) = self.tensors.get(name) else {
            return Err(Error::invalid(format!("the checkpoint has no tensor `{name}`")));
        };
        let info = &stored.info;
        if rows.start > rows.end || rows.end > info.rows() {
            return Err(Error::invalid(format!(
                "tensor `{name}` has {} rows, not rows {rows:?}",
                info.rows()
            )));
        }
        out.clear();
        let row_bytes = info.row_bytes();
        match stored.interleaved {
            None => self.append(stored, rows.start * row_bytes, rows.len() * row_bytes, out),
            // The values of a bias are permuted as the rows of a weight are.
            Some(head) if info.shape.len() == 1 => {
                let units = if rows.is_empty() { 0..0 } else { 0..info.columns() };
                self.append_half_split(stored, units, info.dtype.block_bytes(), head, out)
            }
            Some(head) => self.append_half_split(stored, rows, row_bytes, head, out),
        }
    }

    /// Appends `length` bytes from byte `start` of a tensor.
    fn append(
        &self,
        stored: &Stored,
        start: usize,
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let held = out.len();
        out.resize(held + length, 0);
        self.sources[stored.source].read_at(stored.offset + start as u64, &mut out[held..])
    }

    /// Appends units (rows of a weight, values of a bias), undoing llama.cpp's permutation: within
    /// a head of `d` units, half-split unit `half · d/2 + pair` is stored as `2 · pair + half`.
    fn append_half_split(
        &self,
        stored: &Stored,
        units: Range<usize>,
        unit_bytes: usize,
        head: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut stored_head = Vec::new();
        let mut next = units.start;
        while next < units.end {
            let first = next - next % head;
            stored_head.clear();
            self.append(stored, first * unit_bytes, head * unit_bytes, &mut stored_head)?;
            let end = units.end.min(first + head);
            for unit in next - first..end - first {
                let (half, pair) = (unit / (head / 2), unit % (head / 2));
                let at = (2 * pair + half) * unit_bytes;
                out.extend_from_slice(&stored_head[at..at + unit_bytes]);
            }
            next = end;
        }
        Ok(())
    }

    /// Finds the first tensor that the config promises and the files don't hold.
    pub(super) fn check_tensors(&self) -> Result<()> {
        let file = |stored: Option<&Stored>| {
            let source = stored.map_or(0, |stored| stored.source);
            self.sources.get(source).map_or("checkpoint", |source| source.name())
        };
        let promised = names::promised(&self.config);
        for (name, shape) in &promised {
            let stored = self.tensors.get(name);
            let problem = match stored {
                None => format!(
                    "tensor `{name}` {shape:?} is missing; the file is not a whole {} model",
                    self.config.model_type
                ),
                Some(Stored { info, .. }) if info.shape != *shape => format!(
                    "tensor `{name}` has shape {:?}, but the config expects {shape:?}",
                    info.shape
                ),
                Some(Stored { info, interleaved: Some(_), .. })
                    if info.shape.len() == 1 && info.dtype.block_size() > 1 =>
                {
                    format!("tensor `{name}` is {}; a bias must be a float type", info.dtype)
                }
                Some(_) => continue,
            };
            return Err(Error::format(file(stored), problem));
        }
        let unused = self.tensors.keys().filter(|name| {
            let known = ["lm_head.weight", "rope_freqs.weight"].contains(&name.as_str())
                || name.ends_with(".rotary_emb.inv_freq");
            !known && !promised.iter().any(|(promised, _)| promised == *name)
        });
        for name in unused {
            tracing::warn!("tensor `{name}` is not part of the architecture and is not used");
        }
        Ok(())
    }

    /// The values of GGUF's `rope_freqs.weight`.
    fn rope_divisors(&self) -> Result<Option<Vec<f32>>> {
        let name = "rope_freqs.weight";
        let Some(info) = self.tensor(name) else { return Ok(None) };
        if info.shape != [self.config.head_dim / 2] {
            return Err(Error::format(
                self.sources[0].name(),
                format!(
                    "tensor `{name}` has shape {:?}, but heads of {} need [{}]",
                    info.shape,
                    self.config.head_dim,
                    self.config.head_dim / 2
                ),
            ));
        }
        let mut bytes = Vec::new();
        self.read_rows(name, 0..1, &mut bytes)?;
        let mut values = vec![0.0; info.columns()];
        quant::dequantize(info.dtype, &bytes, &mut values)?;
        Ok(Some(values))
    }
}
