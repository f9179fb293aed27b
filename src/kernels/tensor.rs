//! Activations on the GPU.

use std::rc::Rc;

use crate::Result;
use crate::gpu::{Binding, Buffer, Context, Extent};

/// Which rows of a tensor a replay uses: its tokens from `begin` on, at most `max`. In WGSL a
/// `vec2<u32>`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Rows {
    /// The replay's token that is row 0.
    pub begin: u32,
    /// Most rows.
    pub max: u32,
}

/// Activations: f32, row-major (tokens, cols), of which a replay uses the first rows.
/// A clone shares the memory.
#[derive(Debug, Clone)]
pub struct Tensor {
    buffer: Rc<Buffer>,
    rows: Rows,
    cols: usize,
    first_row: u32,
}

impl Tensor {
    /// A zeroed tensor with room for `capacity` tokens.
    pub fn new(context: &Context, capacity: usize, cols: usize) -> Result<Self> {
        let buffer = context.storage("activation", (capacity * cols * 4) as u64)?;
        Ok(Self::in_buffer(Rc::new(buffer), Rows { begin: 0, max: capacity as u32 }, cols))
    }

    /// A tensor of `values.len() / cols` tokens.
    pub fn from(context: &Context, cols: usize, values: &[f32]) -> Result<Self> {
        let tensor = Self::new(context, values.len() / cols, cols)?;
        context.write(&tensor.buffer, 0, bytemuck::cast_slice(values));
        Ok(tensor)
    }

    /// A tensor in memory that somebody else lends.
    pub fn in_buffer(buffer: Rc<Buffer>, rows: Rows, cols: usize) -> Self {
        Self { buffer, rows, cols, first_row: 0 }
    }

    /// The replay's tokens from `begin` on, at most `max`, of this tensor, in its own memory.
    ///
    /// Only the matrix products read and write such windows.
    pub fn window(&self, begin: usize, max: usize) -> Self {
        let rows = Rows { begin: begin as u32, max: max as u32 };
        Self { rows, first_row: begin as u32, ..self.clone() }
    }

    /// The same memory, standing for the replay's tokens from `begin` on: row 0 is token `begin`.
    pub fn standing_for(&self, begin: usize) -> Self {
        let rows = Rows { begin: begin as u32, ..self.rows };
        Self { rows, ..self.clone() }
    }

    /// The row of its memory that is its row 0.
    pub fn first_row(&self) -> u32 {
        self.first_row
    }

    /// Its memory.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Its memory, as kernels bind it.
    pub fn binding(&self) -> Binding<'_> {
        Binding::from(&*self.buffer)
    }

    /// The rows in use.
    pub fn rows(&self) -> Rows {
        self.rows
    }

    /// Room for that many tokens.
    pub fn capacity(&self) -> usize {
        self.rows.max as usize
    }

    /// Features of a token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// A grid extent of one workgroup for every `per` rows in use.
    pub fn per_token(&self, per: u32) -> Extent {
        Extent::Tokens { begin: self.rows.begin, max: self.rows.max, per }
    }
}
