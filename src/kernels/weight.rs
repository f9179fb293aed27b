//! Weight matrices on the GPU, quantised or not.
//!
//! A matrix is (rows, cols) = (out, in), row by row, each row cut into blocks of 32 columns (the
//! last one filled up with zeros). A block is stored so that eight neighbouring weights come from
//! one aligned 16-byte load:
//!
//! | format | `values`, per block | `scales` |
//! |---|---|---|
//! | f32 | 32 f32 | |
//! | f16 | 32 f16 | |
//! | q8 | 32 i8 | one f16 `d` a block: w = d·q |
//! | q4 | 32 u4, in order from the lowest bits of the first word | two f16 `d`, `m` a block: w = d·q + m |
//!
//! q8 is GGUF's Q8_0, q4 its Q4_1 with the nibbles in order; Q4_0 is the q4 with m = −8·d.

use super::optimizer::Place;
use crate::gpu::{Binding, Buffer, Context};
use crate::{Error, Result};

/// Columns of a block.
pub const BLOCK: usize = 32;

/// Rows that a stacked matrix begins at a multiple of: its planes then begin at multiples of 256
/// bytes, where every device can bind them.
const STACK_ROWS: usize = 128;

/// How a [`Matrix`] stores its weights; the numbers are those of `FORMAT` in `weight.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 4 bytes a weight.
    F32 = 0,
    /// 2 bytes a weight.
    F16 = 1,
    /// 1.0625 bytes a weight.
    Q8 = 2,
    /// 0.625 bytes a weight.
    Q4 = 3,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 4] = [Format::F32, Format::F16, Format::Q8, Format::Q4];

    /// Bytes of `values` a block takes, a multiple of 16.
    pub fn value_bytes(self) -> usize {
        match self {
            Format::F32 => 128,
            Format::F16 => 64,
            Format::Q8 => 32,
            Format::Q4 => 16,
        }
    }

    /// Bytes of `scales` a block takes.
    pub fn scale_bytes(self) -> usize {
        match self {
            Format::F32 | Format::F16 => 0,
            Format::Q8 => 2,
            Format::Q4 => 4,
        }
    }

    pub(super) fn constant(self) -> (&'static str, f64) {
        ("FORMAT", f64::from(self as u32))
    }
}

/// Rows in the layout of a [`Format`], on their way to the GPU.
#[derive(Debug, Clone, Default)]
pub struct PackedRows {
    /// The plane of values.
    pub values: Vec<u8>,
    /// The plane of scales.
    pub scales: Vec<u8>,
}

/// A run of a matrix's rows that one binding can hold.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) first_row: usize,
    pub(super) rows: usize,
    /// The row of the buffers that is its first.
    at: usize,
    values: Buffer,
    scales: Buffer,
}

/// A weight matrix (out, in) on the GPU; a clone shares it.
#[derive(Debug, Clone)]
pub struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    parts: Vec<Part>,
}

impl Matrix {
    /// A matrix of zeros, in as many parts as the device's largest binding asks for.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device has not enough memory, or one row is over its limits.
    pub fn new(context: &Context, format: Format, rows: usize, cols: usize) -> Result<Self> {
        let blocks = cols.div_ceil(BLOCK);
        let row_bytes = blocks * format.value_bytes();
        let per_part = rows_of_a_binding(context, row_bytes)?;
        let part = |first_row: usize| {
            let rows = per_part.min(rows - first_row);
            let values = context.storage("weight values", (rows * row_bytes) as u64)?;
            let scale_bytes = (rows * blocks * format.scale_bytes()) as u64;
            let scales = context.storage("weight scales", scale_bytes)?;
            Ok(Part { first_row, rows, at: 0, values, scales })
        };
        let parts = (0..rows).step_by(per_part).map(part).collect::<Result<_>>()?;
        Ok(Self { format, rows, cols, parts })
    }

    /// Matrices of zeros, of so many rows each, one behind another in one buffer: what
    /// [`Self::whole`] takes. `None` if that is more than a binding holds.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn stacked(
        context: &Context,
        format: Format,
        rows: &[usize],
        cols: usize,
    ) -> Result<Option<Vec<Self>>> {
        let mut end = 0;
        let mut place = |&rows: &usize| {
            let at = end;
            end = (end + rows).next_multiple_of(STACK_ROWS);
            (at, rows)
        };
        let places: Vec<(usize, usize)> = rows.iter().map(&mut place).collect();
        let row_bytes = cols.div_ceil(BLOCK) * format.value_bytes();
        if end > rows_of_a_binding(context, row_bytes)? {
            return Ok(None);
        }
        let whole = Self::new(context, format, end, cols)?;
        let of = |(at, rows)| {
            let parts = whole.parts.iter().map(|part| Part { at, rows, ..part.clone() }).collect();
            Self { format, rows, cols, parts }
        };
        Ok(Some(places.into_iter().map(of).collect()))
    }

    /// The matrix of all rows of `matrices`, which lie one behind another in one buffer, and the
    /// row at which each begins; rows of zeros may be between them. `None` if they don't lie so.
    pub fn whole(matrices: &[&Self]) -> Option<(Self, Vec<usize>)> {
        let [first, ..] = matrices else { return None };
        let [base] = &first.parts[..] else { return None };
        let mut starts = Vec::new();
        let mut rows = 0;
        for matrix in matrices {
            let [part] = &matrix.parts[..] else { return None };
            let same = *part.values == *base.values && matrix.cols == first.cols;
            let start = part.at.checked_sub(base.at).filter(|start| same && *start >= rows)?;
            starts.push(start);
            rows = start + part.rows;
        }
        let parts = vec![Part { rows, ..base.clone() }];
        Some((Self { format: first.format, rows, cols: first.cols, parts }, starts))
    }

    /// Queues a write of whole rows from row `first` on; `first` is even.
    pub fn write_rows(&self, context: &Context, first: usize, rows: &PackedRows) {
        let blocks = self.cols.div_ceil(BLOCK);
        let value_row = blocks * self.format.value_bytes();
        let scale_row = blocks * self.format.scale_bytes();
        let count = rows.values.len() / value_row;
        for part in &self.parts {
            let begin = first.max(part.first_row);
            let end = (first + count).min(part.first_row + part.rows);
            if begin < end {
                let (from, to) = (begin - first, end - first);
                let at = part.at + begin - part.first_row;
                let values = &rows.values[from * value_row..to * value_row];
                context.write(&part.values, (at * value_row) as u64, values);
                let scales = &rows.scales[from * scale_row..to * scale_row];
                context.write(&part.scales, (at * scale_row) as u64, scales);
            }
        }
    }

    /// Copies `count` rows of f32, each filled up to whole blocks, from the start of `rows` into a
    /// matrix of [`Format::F32`], from row `first` on.
    pub fn copy_rows(&self, context: &Context, first: usize, rows: &Buffer, count: usize) {
        let row = self.cols.div_ceil(BLOCK) * self.format.value_bytes();
        let mut encoder = context.device().create_command_encoder(&Default::default());
        for part in &self.parts {
            let begin = first.max(part.first_row);
            let end = (first + count).min(part.first_row + part.rows);
            if begin < end {
                let (from, to) = ((begin - first) * row, (part.at + begin - part.first_row) * row);
                let bytes = Some(((end - begin) * row) as u64);
                encoder.copy_buffer_to_buffer(rows, from as u64, &part.values, to as u64, bytes);
            }
        }
        context.submit(encoder);
    }

    /// A matrix that holds `values`, quantised to `format`: for tests and small tables.
    pub fn from_f32(
        context: &Context,
        format: Format,
        cols: usize,
        values: &[f32],
    ) -> Result<Self> {
        let matrix = Self::new(context, format, values.len() / cols, cols)?;
        let mut packed = PackedRows::default();
        for row in values.chunks_exact(cols) {
            pack_row(format, row, &mut packed);
        }
        matrix.write_rows(context, 0, &packed);
        Ok(matrix)
    }

    /// Copies a matrix of [`Format::F32`] back: (out, in), row by row, without the padding.
    ///
    /// # Errors
    /// Another format.
    pub async fn read_f32(&self, context: &Context) -> Result<Vec<f32>> {
        if self.format != Format::F32 {
            return Err(Error::invalid(format!("the matrix is {:?}, not F32", self.format)));
        }
        let stride = self.cols.next_multiple_of(BLOCK);
        let mut values = Vec::with_capacity(self.rows * self.cols);
        for part in &self.parts {
            let padded = context.read(&part.values, part.at * stride, part.rows * stride).await?;
            values.extend(padded.chunks_exact(stride).flat_map(|row: &[f32]| &row[..self.cols]));
        }
        Ok(values)
    }

    /// Whether the other one shares its place in memory.
    pub fn is(&self, other: &Self) -> bool {
        match (&self.parts[..], &other.parts[..]) {
            ([own, ..], [others, ..]) => *own.values == *others.values && own.at == others.at,
            _ => false,
        }
    }

    /// The buffers of its values, which it may share with those it is stacked with.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.parts.iter().map(|part| &part.values)
    }

    /// Where its values are in `buffer`, one of [`Self::buffers`], in f32.
    pub fn places(&self, buffer: &Buffer) -> impl Iterator<Item = Place> {
        let stride = self.cols.next_multiple_of(BLOCK);
        let own = self.parts.iter().filter(|part| *part.values == **buffer);
        own.map(move |part| Place::matrix(part.at * stride, part.rows, self.cols, stride))
    }

    /// How it is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The planes of a part, values and scales.
    pub(super) fn planes<'a>(&self, part: &'a Part) -> [Binding<'a>; 2] {
        let blocks = self.cols.div_ceil(BLOCK);
        let plane = |buffer, block_bytes: usize| {
            let row = blocks * block_bytes;
            let bytes = (part.rows * row).next_multiple_of(4);
            Binding::part(buffer, (part.at * row) as u64, bytes as u64)
        };
        [
            plane(&part.values, self.format.value_bytes()),
            plane(&part.scales, self.format.scale_bytes()),
        ]
    }
}

/// Rows of so many bytes that a binding holds: an even number, which keeps the two q8 scales of a
/// word in one part.
fn rows_of_a_binding(context: &Context, row_bytes: usize) -> Result<usize> {
    let limits = context.limits();
    let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    match (most / row_bytes as u64) as usize & !1 {
        0 => {
            let problem = format!("two weight rows take {} bytes, a binding {most}", 2 * row_bytes);
            Err(Error::OutOfMemory(problem))
        }
        rows => Ok(rows),
    }
}

/// Appends one row of f32 weights to `packed`, quantised as ggml's reference does (Q8_0, Q4_1).
pub fn pack_row(format: Format, row: &[f32], packed: &mut PackedRows) {
    for chunk in row.chunks(BLOCK) {
        let mut block = [0.0; BLOCK];
        block[..chunk.len()].copy_from_slice(chunk);
        match format {
            Format::F32 => packed.values.extend(block.iter().flat_map(|v| v.to_le_bytes())),
            Format::F16 => packed
                .values
                .extend(block.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes())),
            Format::Q8 => {
                let d = block.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                packed.values.extend(block.map(|v| (v * inverse).round() as i8 as u8));
                packed.scales.extend(half::f16::from_f32(d).to_le_bytes());
            }
            Format::Q4 => {
                let low = block.iter().copied().fold(f32::INFINITY, f32::min);
                let high = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let d = (high - low) / 15.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                let quantum = |v: f32| ((v - low) * inverse + 0.5).min(15.0) as u8;
                packed.values.extend(block.chunks(2).map(|p| quantum(p[0]) | quantum(p[1]) << 4));
                packed.scales.extend(half::f16::from_f32(d).to_le_bytes());
                packed.scales.extend(half::f16::from_f32(low).to_le_bytes());
            }
        }
    }
}

/// The weights that packed rows stand for: the reference of `weight.wgsl`.
pub fn unpack(format: Format, cols: usize, packed: &PackedRows) -> Vec<f32> {
    let f16 = |bytes: &[u8], i: usize| {
        half::f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
    };
    let mut weights = Vec::new();
    for (block, bytes) in packed.values.chunks_exact(format.value_bytes()).enumerate() {
        weights.extend((0..BLOCK).map(|i| match format {
            Format::F32 => bytemuck::pod_read_unaligned::<f32>(&bytes[4 * i..4 * i + 4]),
            Format::F16 => f16(bytes, i),
            Format::Q8 => f16(&packed.scales, block) * f32::from(bytes[i] as i8),
            Format::Q4 => {
                let q = f32::from(bytes[i / 2] >> (4 * (i % 2)) & 15);
                f16(&packed.scales, 2 * block) * q + f16(&packed.scales, 2 * block + 1)
            }
        }));
    }
    let padded = cols.next_multiple_of(BLOCK);
    weights.chunks_exact(padded).flat_map(|row| &row[..cols]).copied().collect()
}

/// A matrix of noise and what its weights are once packed, for the parity tests.
pub(super) fn noise_matrix(
    context: &Context,
    format: Format,
    rows: usize,
    cols: usize,
) -> Result<(Matrix, Vec<f32>)> {
    let values = super::check::noise(7, rows * cols);
    let mut packed = PackedRows::default();
    for row in values.chunks_exact(cols) {
        pack_row(format, row, &mut packed);
    }
    let matrix = Matrix::new(context, format, rows, cols)?;
    matrix.write_rows(context, 0, &packed);
    Ok((matrix, unpack(format, cols, &packed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::{noise, test_context};
    use crate::testing::{async_test, test};

    #[test]
    fn unpacking_gives_back_what_was_packed() {
        for (format, tolerance) in
            [(Format::F32, 0.0), (Format::F16, 5e-4), (Format::Q8, 5e-3), (Format::Q4, 0.07)]
        {
            let rows = noise(3, 2 * 45);
            let mut packed = PackedRows::default();
            rows.chunks_exact(45).for_each(|row| pack_row(format, row, &mut packed));
            let back = unpack(format, 45, &packed);
            crate::kernels::check::close("unpack", &back, &rows, tolerance, 0.0).unwrap();
        }
    }
    #[async_test]
    async fn a_stack_is_one_matrix_where_a_binding_holds_it() {
        let context = test_context().await;
        let rows = [130, 3, 128];
        let stacked = Matrix::stacked(&context, Format::Q4, &rows, 45).unwrap().unwrap();
        let [a, b, c] = &stacked[..] else { panic!("{} matrices", stacked.len()) };
        let (whole, starts) = Matrix::whole(&[a, b, c]).unwrap();
        assert_eq!((whole.rows(), starts), (512, vec![0, 256, 384]));
        let (last, starts) = Matrix::whole(&[b, c]).unwrap();
        assert_eq!((last.rows(), starts), (256, vec![0, 128]));
        assert!(Matrix::whole(&[b, a]).is_none());
        let other = Matrix::new(&context, Format::Q4, 3, 45).unwrap();
        assert!(Matrix::whole(&[a, &other]).is_none());

        let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..Default::default() };
        let options = crate::gpu::ContextOptions { limits: Some(limits), ..Default::default() };
        let small = Context::new(&options).await.unwrap();
        assert!(Matrix::stacked(&small, Format::Q4, &rows, 45).unwrap().is_none());
    }
}
