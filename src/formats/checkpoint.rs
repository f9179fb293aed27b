//! One view of a model's files, whichever format they are in.

use std::collections::{BTreeMap, HashSet};
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
    pub async fn from_gguf(source: Box<dyn ByteSource>) -> Result<Self> {
        let mut gguf = Gguf::parse(source.as_ref()).await?;
        let config = ModelConfig::from_gguf(&gguf)?;
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
        if let Some(divisors) = checkpoint.rope_divisors().await? {
            let scaling = llama3_scaling(&gguf.metadata, &checkpoint.config, &divisors)?;
            if scaling.is_some() {
                checkpoint.config.rope_scaling = scaling;
            }
        }
        Ok(checkpoint)
    }

    /// What errors call it: its first file.
    pub fn name(&self) -> &str {
        self.sources.first().map_or("checkpoint", |source| source.name())
    }

    /// The GGUF file that it is, if it is one.
    pub(crate) fn gguf(&self) -> Option<&dyn ByteSource> {
        match &self.tokenizer {
            TokenizerFile::Gguf(_) => self.sources.first().map(AsRef::as_ref),
            TokenizerFile::Json(_) => None,
        }
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
    pub async fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
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
            None => self.append(stored, rows.start * row_bytes, rows.len() * row_bytes, out).await,
            // The values of a bias are permuted as the rows of a weight are.
            Some(head) if info.shape.len() == 1 => {
                let units = if rows.is_empty() { 0..0 } else { 0..info.columns() };
                self.append_half_split(stored, units, info.dtype.block_bytes(), head, out).await
            }
            Some(head) => self.append_half_split(stored, rows, row_bytes, head, out).await,
        }
    }

    /// Appends `length` bytes from byte `start` of a tensor.
    async fn append(
        &self,
        stored: &Stored,
        start: usize,
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let held = out.len();
        out.resize(held + length, 0);
        self.sources[stored.source].read_at(stored.offset + start as u64, &mut out[held..]).await
    }

    /// Appends units (rows of a weight, values of a bias), undoing llama.cpp's permutation: within
    /// a head of `d` units, half-split unit `half · d/2 + pair` is stored as `2 · pair + half`.
    async fn append_half_split(
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
            self.append(stored, first * unit_bytes, head * unit_bytes, &mut stored_head).await?;
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
        let promised: HashSet<&str> = promised.iter().map(|(name, _)| name.as_str()).collect();
        let known = |name: &str| {
            promised.contains(name)
                || ["lm_head.weight", "rope_freqs.weight"].contains(&name)
                || name.ends_with(".rotary_emb.inv_freq")
        };
        for (name, stored) in self.tensors.iter().filter(|(name, _)| !known(name)) {
            // Without a bias or a norm that the weights were trained with, the answers are wrong.
            if name.starts_with("model.layers.") || name.starts_with("blk.") {
                return Err(Error::format(
                    file(Some(stored)),
                    format!(
                        "tensor `{name}` has no place in the {} architecture of the config; the \
                         two do not belong together",
                        self.config.model_type
                    ),
                ));
            }
            tracing::warn!("tensor `{name}` is not part of the architecture and is not used");
        }
        Ok(())
    }

    /// The values of GGUF's `rope_freqs.weight`.
    async fn rope_divisors(&self) -> Result<Option<Vec<f32>>> {
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
        self.read_rows(name, 0..1, &mut bytes).await?;
        let mut values = vec![0.0; info.columns()];
        quant::dequantize(info.dtype, &bytes, &mut values)?;
        Ok(Some(values))
    }
}

#[cfg(test)]
mod tests {
    // What is in memory is read without waiting, which a page may do too.
    use pollster::block_on;

    use super::*;
    use crate::formats::testing::{GgufFile, TinyLlama};
    use crate::formats::{Bytes, quantize};
    use crate::model::RopeScaling;
    use crate::testing::test;

    fn open(file: &GgufFile) -> Result<Checkpoint> {
        block_on(Checkpoint::from_gguf(Box::new(Bytes::new("model.gguf", file.bytes()))))
    }

    fn problem(file: &GgufFile) -> String {
        open(file).map(|_| ()).expect_err("malformed").to_string()
    }

    fn read(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
        let rows = checkpoint.tensor(name).expect(name).rows();
        let mut bytes = Vec::new();
        block_on(checkpoint.read_rows(name, 0..rows, &mut bytes)).expect(name);
        bytes
    }

    #[test]
    fn both_formats_give_the_same_model() {
        for bias in [false, true] {
            let tiny = TinyLlama { bias, tied: !bias };
            let gguf = open(&tiny.gguf()).expect("valid");
            let folder = block_on(Checkpoint::from_safetensors(tiny.folder())).expect("valid");
            assert_eq!(gguf.config, folder.config);
            assert_eq!(gguf.chat_template, folder.chat_template);
            assert_eq!((&gguf.bos_token, &gguf.eos_token), (&folder.bos_token, &folder.eos_token));
            let names: Vec<&str> = gguf.tensor_names().collect();
            assert_eq!(names, folder.tensor_names().collect::<Vec<_>>());
            assert_eq!(names.len(), tiny.tensors().len());
            for name in names {
                assert_eq!(gguf.tensor(name), folder.tensor(name));
                assert_eq!(read(&gguf, name), read(&folder, name), "{name}");
            }
        }
    }

    #[test]
    fn any_range_of_rows_is_a_part_of_the_whole() {
        let checkpoint = open(&TinyLlama::default().gguf()).expect("valid");
        let name = "model.layers.1.self_attn.q_proj.weight";
        let info = checkpoint.tensor(name).expect("there");
        let (rows, size) = (info.rows(), info.row_bytes());
        let whole = read(&checkpoint, name);
        assert_eq!(whole.len(), rows * size);
        let mut part = Vec::new();
        for (start, end) in [(0, 0), (0, 1), (7, 9), (15, 17), (3, rows), (rows, rows)] {
            block_on(checkpoint.read_rows(name, start..end, &mut part)).expect("in range");
            assert_eq!(part, whole[start * size..end * size], "{start}..{end}");
        }
        assert!(block_on(checkpoint.read_rows(name, 0..rows + 1, &mut part)).is_err());
        assert!(block_on(checkpoint.read_rows("lm_head", 0..1, &mut part)).is_err());
    }

    #[test]
    fn quantised_rows_are_unpermuted_whole() {
        let mut file = TinyLlama::default().gguf();
        let tensor = file.tensor("blk.0.attn_k.weight");
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&tensor.data);
        tensor.data = quantize(DType::Q8_0, &values).expect("finite");
        tensor.kind = 8;
        let name = "model.layers.0.self_attn.k_proj.weight";
        let plain = read(&open(&TinyLlama::default().gguf()).expect("valid"), name);
        let plain: Vec<f32> = bytemuck::pod_collect_to_vec(&plain);
        let expected = quantize(DType::Q8_0, &plain).expect("finite");
        assert_eq!(read(&open(&file).expect("valid"), name), expected);
    }

    #[test]
    fn the_tokenizer_is_taken_over() {
        let checkpoint = open(&TinyLlama::default().gguf()).expect("valid");
        let TokenizerFile::Gguf(tokenizer) = checkpoint.tokenizer else { panic!("a GGUF's") };
        assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_deref()), ("gpt2", Some("smollm")));
        assert_eq!(tokenizer.tokens.len(), 40);
        assert_eq!(tokenizer.token_type.len(), 40);
        assert_eq!(tokenizer.merges, ["t0 t1"]);
        assert_eq!((tokenizer.bos_token_id, tokenizer.eos_token_id), (Some(1), Some(2)));
        assert_eq!((tokenizer.add_bos_token, tokenizer.scores), (Some(false), None));
    }

    #[test]
    fn rope_freqs_become_llama3_scaling_or_an_error() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let mut file = TinyLlama::default().gguf();
        let divisors = scaling.factors(16, 1e5);
        file.push("rope_freqs.weight", &[8], &divisors);
        assert_eq!(open(&file).expect("valid").config.rope_scaling, Some(scaling));

        file.tensor("rope_freqs.weight").data[12..16].copy_from_slice(&3.0_f32.to_le_bytes());
        assert!(problem(&file).contains("rope_freqs.weight"), "{}", problem(&file));
    }

    #[test]
    fn a_tensor_that_is_missing_misshapen_or_too_much_is_named() {
        let mut file = TinyLlama::default().gguf();
        file.tensors.retain(|tensor| tensor.name != "blk.1.ffn_up.weight");
        let missing = "model.gguf: tensor `model.layers.1.mlp.up_proj.weight` [96, 64] is missing";
        assert!(problem(&file).starts_with(missing), "{}", problem(&file));

        let mut file = TinyLlama::default().gguf();
        file.tensor("blk.1.ffn_up.weight").dims.reverse();
        let wrong = "shape [64, 96], but the config expects [96, 64]";
        assert!(problem(&file).contains(wrong), "{}", problem(&file));

        let mut file = TinyLlama::default().gguf();
        file.push("blk.0.ffn_up.bias", &[96], &[0.0; 96]);
        let extra = "`model.layers.0.mlp.up_proj.bias` has no place";
        assert!(problem(&file).contains(extra), "{}", problem(&file));
    }

    #[test]
    fn metadata_that_no_decoder_can_follow_is_named() {
        for (key, kind, bytes, named) in [
            ("split.count", 2, 3_u16.to_le_bytes().to_vec(), "is one of 3 parts"),
            ("llama.expert_count", 4, 8_u32.to_le_bytes().to_vec(), "experts"),
            ("llama.rope.dimension_count", 4, 8_u32.to_le_bytes().to_vec(), "is 8, but heads"),
            ("llama.block_count", 6, 2_f32.to_le_bytes().to_vec(), "`llama.block_count` is not"),
            ("llama.block_count", 5, (-2_i32).to_le_bytes().to_vec(), "is not a size"),
            ("llama.block_count", 4, u32::MAX.to_le_bytes().to_vec(), "num_hidden_layers"),
            ("llama.vocab_size", 4, 39_u32.to_le_bytes().to_vec(), "40 tokens for"),
            ("tokenizer.ggml.eos_token_id", 4, 40_u32.to_le_bytes().to_vec(), "token id 40"),
        ] {
            let mut file = TinyLlama::default().gguf();
            file.set(key, kind, bytes);
            assert!(problem(&file).contains(named), "{key}: {}", problem(&file));
        }
        let mut file = TinyLlama::default().gguf();
        file.set_string("general.architecture", "qwen2");
        assert!(problem(&file).contains("`qwen2` is not supported; supported: llama"));
        file.pairs.retain(|(key, _)| key != "general.architecture");
        assert!(problem(&file).contains("does not name its architecture"));
    }
}
