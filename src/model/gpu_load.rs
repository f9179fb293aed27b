//! Loading onto the GPU: rows are read a few at a time, repacked and written, so that the host
//! never holds more than a few megabytes of a model.

use super::load::{Load, rows_f32};
use super::{Llama, ModelConfig};
use crate::formats::{Checkpoint, DType, quantize};
use crate::gpu::{Buffer, Context};
use crate::kernels::weight::{BLOCK, Format, Matrix, PackedRows};
use crate::{Error, Result};

/// A decoder on the GPU.
pub type GpuLlama = Llama<Matrix, Buffer>;

/// Bytes of a file that are repacked at a time.
const CHUNK: usize = 1 << 20;
/// Bytes written before the queue is drained, which frees the driver's staging memory.
const IN_FLIGHT: usize = 16 << 20;

/// What `--quantize` makes of a checkpoint's matrices at load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantize {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// ggml's Q8_0.
    Q8_0,
    /// ggml's Q4_0; the embedding and the head become Q8_0, as they suffer most.
    Q4_0,
}

/// Loads a checkpoint onto a device.
pub struct GpuLoad<'a> {
    context: Context,
    quantize: Option<Quantize>,
    on_progress: &'a mut dyn FnMut(u64, u64) -> Result<()>,
    total: u64,
    done: u64,
    in_flight: usize,
}

impl GpuLlama {
    /// Loads `checkpoint` onto `context`'s device, quantised anew if `quantize` says so.
    ///
    /// Q4_0, Q4_1, Q8_0, F16 and F32 stay what they are; BF16 becomes F16, every other type Q8_0
    /// (`tracing` says so). `on_progress` gets bytes read and bytes in all; its error ends the load.
    ///
    /// # Errors
    /// A damaged file, too little GPU memory, or what `on_progress` returned.
    pub async fn to_gpu(
        context: &Context,
        checkpoint: &Checkpoint,
        quantize: Option<Quantize>,
        on_progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        check_supported(&checkpoint.config)?;
        let bytes = |name: &str| {
            checkpoint.tensor(name).map_or(0, |info| (info.rows() * info.row_bytes()) as u64)
        };
        let total = checkpoint.tensor_names().map(bytes).sum();
        let mut loader = GpuLoad {
            context: context.clone(),
            quantize,
            on_progress,
            total,
            done: 0,
            in_flight: 0,
        };
        let llama = Llama::load(checkpoint, &mut loader).await?;
        context.drain().await?;
        // Vectors, and tensors that nobody asked for, were not counted on the way.
        on_progress(total, total)?;
        Ok(llama)
    }
}

fn check_supported(config: &ModelConfig) -> Result<()> {
    crate::kernels::attention::AttentionShape {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
    }
    .check()
}

impl Load for GpuLoad<'_> {
    type Matrix = Matrix;
    type Vector = Buffer;

    async fn matrix(&mut self, checkpoint: &Checkpoint, name: &str) -> Result<Matrix> {
        let found = self.found(checkpoint, name)?;
        let matrix = Matrix::new(&self.context, found.format, found.rows, found.cols)?;
        self.fill(checkpoint, name, &found, &matrix).await?;
        Ok(matrix)
    }

    /// In one buffer where a binding holds them and their formats agree, so that a decoded token
    /// takes one dispatch for all.
    async fn matrices(&mut self, checkpoint: &Checkpoint, names: &[String]) -> Result<Vec<Matrix>> {
        let found = names.iter().map(|name| self.found(checkpoint, name));
        let found: Vec<Found> = found.collect::<Result<_>>()?;
        let same = |a: &Found, b: &Found| (a.format, a.cols) == (b.format, b.cols);
        let stacked = match &found[..] {
            [first, rest @ ..] if rest.iter().all(|other| same(first, other)) => {
                let rows: Vec<usize> = found.iter().map(|found| found.rows).collect();
                Matrix::stacked(&self.context, first.format, &rows, first.cols)?
            }
            _ => None,
        };
        let matrices = match stacked {
            Some(matrices) => matrices,
            None => {
                let new = |f: &Found| Matrix::new(&self.context, f.format, f.rows, f.cols);
                found.iter().map(new).collect::<Result<_>>()?
            }
        };
        for ((name, found), matrix) in names.iter().zip(&found).zip(&matrices) {
            self.fill(checkpoint, name, found, matrix).await?;
        }
        Ok(matrices)
    }

    fn vector(&mut self, values: &[f32]) -> Result<Buffer> {
        self.context.storage_from("vector", values)
    }
}

/// A matrix in the checkpoint and what becomes of it.
struct Found {
    rows: usize,
    cols: usize,
    row_bytes: usize,
    /// In the file.
    stored: DType,
    /// What it is repacked from.
    dtype: DType,
    format: Format,
}

impl GpuLoad<'_> {
    fn found(&self, checkpoint: &Checkpoint, name: &str) -> Result<Found> {
        let Some(info) = checkpoint.tensor(name) else {
            return Err(Error::invalid(format!("the checkpoint has no tensor `{name}`")));
        };
        let is_table = !name.contains(".layers.");
        let (format, dtype) = target(info.dtype, self.quantize, is_table);
        if dtype != info.dtype {
            tracing::info!("{name}: {} becomes {}", info.dtype.name(), dtype.name());
        }
        let (rows, cols, row_bytes) = (info.rows(), info.columns(), info.row_bytes());
        Ok(Found { rows, cols, row_bytes, stored: info.dtype, dtype, format })
    }

    /// Reads the rows of a matrix and writes them to the device.
    async fn fill(
        &mut self,
        checkpoint: &Checkpoint,
        name: &str,
        found: &Found,
        matrix: &Matrix,
    ) -> Result<()> {
        let &Found { rows, cols, row_bytes, stored, dtype, format } = found;
        // Even, as `Matrix::write_rows` asks.
        let per_chunk = (CHUNK / row_bytes.max(1)).max(2) & !1;
        let mut bytes = Vec::new();
        for first in (0..rows).step_by(per_chunk) {
            let range = first..(first + per_chunk).min(rows);
            let mut packed = PackedRows::default();
            if dtype == stored {
                checkpoint.read_rows(name, range.clone(), &mut bytes).await?;
                repack(dtype, cols, &bytes, &mut packed);
            } else {
                let values = rows_f32(checkpoint, name, range.clone()).await?;
                for row in values.chunks_exact(cols) {
                    repack(dtype, cols, &encode(dtype, row)?, &mut packed);
                }
            }
            check_finite(checkpoint, name, format, &packed)?;
            matrix.write_rows(&self.context, first, &packed);
            self.advance(range.len() * row_bytes).await?;
        }
        Ok(())
    }

    async fn advance(&mut self, bytes: usize) -> Result<()> {
        self.done += bytes as u64;
        self.in_flight += bytes;
        if self.in_flight >= IN_FLIGHT {
            self.context.drain().await?;
            self.in_flight = 0;
        }
        (self.on_progress)(self.done, self.total)
    }
}

/// The format on the GPU and the dtype it is repacked from.
fn target(found: DType, quantize: Option<Quantize>, is_table: bool) -> (Format, DType) {
    match quantize {
        Some(Quantize::F32) => (Format::F32, DType::F32),
        Some(Quantize::F16) => (Format::F16, DType::F16),
        Some(Quantize::Q8_0) => (Format::Q8, DType::Q8_0),
        Some(Quantize::Q4_0) if is_table => (Format::Q8, DType::Q8_0),
        Some(Quantize::Q4_0) => (Format::Q4, DType::Q4_0),
        None => match found {
            DType::F32 => (Format::F32, DType::F32),
            DType::F16 | DType::BF16 => (Format::F16, DType::F16),
            DType::Q4_0 | DType::Q4_1 => (Format::Q4, found),
            _ => (Format::Q8, DType::Q8_0),
        },
    }
}

/// A row in `dtype`'s bytes, its last block filled up with zeros.
fn encode(dtype: DType, row: &[f32]) -> Result<Vec<u8>> {
    let mut whole = row.to_vec();
    if dtype.block_size() > 1 {
        whole.resize(row.len().next_multiple_of(BLOCK), 0.0);
    }
    match dtype {
        DType::F16 => {
            Ok(whole.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect())
        }
        DType::Q8_0 | DType::Q4_0 => quantize(dtype, &whole),
        _ => Ok(whole.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

/// Appends rows in ggml's or plain bytes to `packed`, in the layout of `kernels/weight.rs`.
fn repack(dtype: DType, cols: usize, bytes: &[u8], packed: &mut PackedRows) {
    match dtype {
        DType::Q4_0 => {
            for block in bytes.chunks_exact(18) {
                let d = half::f16::from_le_bytes([block[0], block[1]]);
                let m = half::f16::from_f32(-8.0 * d.to_f32());
                packed.scales.extend(d.to_le_bytes());
                packed.scales.extend(m.to_le_bytes());
                packed.values.extend(nibbles_in_order(&block[2..]));
            }
        }
        DType::Q4_1 => {
            for block in bytes.chunks_exact(20) {
                packed.scales.extend(&block[..4]);
                packed.values.extend(nibbles_in_order(&block[4..]));
            }
        }
        DType::Q8_0 => {
            for block in bytes.chunks_exact(34) {
                packed.scales.extend(&block[..2]);
                packed.values.extend(&block[2..]);
            }
        }
        _ => {
            let size = dtype.block_bytes();
            for row in bytes.chunks_exact(cols * size) {
                packed.values.extend(row);
                let padding = (cols.next_multiple_of(BLOCK) - cols) * size;
                packed.values.resize(packed.values.len() + padding, 0);
            }
        }
    }
}

/// ggml keeps weight `i` of a block in the low half of byte `i` and weight `i + 16` in its high
/// half; here neighbours share a byte.
fn nibbles_in_order(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let nibble = |i: usize| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 };
    (0..16).map(move |i| nibble(2 * i) | nibble(2 * i + 1) << 4)
}

/// Floats and scales must be finite: one that is not would turn every output into NaN.
fn check_finite(
    checkpoint: &Checkpoint,
    name: &str,
    format: Format,
    packed: &PackedRows,
) -> Result<()> {
    let f16_finite = |bytes: &[u8]| {
        bytes.chunks_exact(2).all(|b| half::f16::from_le_bytes([b[0], b[1]]).is_finite())
    };
    let finite = match format {
        Format::F32 => packed
            .values
            .chunks_exact(4)
            .all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
        Format::F16 => f16_finite(&packed.values),
        Format::Q8 | Format::Q4 => f16_finite(&packed.scales),
    };
    if finite {
        return Ok(());
    }
    let problem = format!("{name} has weights that are not finite in {format:?}; fetch it again");
    Err(Error::format(checkpoint.name(), problem))
}
