//! Loading for [`Reference`](crate::ops::Reference): every weight as f32 in host memory.

use super::Llama;
use super::load::{Load, rows_f32};
use crate::formats::Checkpoint;
use crate::ops::Rows;
use crate::{Error, Result};

/// A decoder that [`Reference`](crate::ops::Reference) computes.
pub type ReferenceLlama = Llama<Rows, Vec<f32>>;

struct ReferenceLoad;

impl ReferenceLlama {
    /// Loads `checkpoint` dequantised, four bytes a weight: for tests of small models.
    ///
    /// # Errors
    /// As [`Llama::load`].
    pub async fn to_reference(checkpoint: &Checkpoint) -> Result<Self> {
        Llama::load(checkpoint, &mut ReferenceLoad).await
    }
}

impl Load for ReferenceLoad {
    type Matrix = Rows;
    type Vector = Vec<f32>;

    async fn matrix(&mut self, checkpoint: &Checkpoint, name: &str) -> Result<Rows> {
        let Some(info) = checkpoint.tensor(name) else {
            return Err(Error::invalid(format!("the checkpoint has no tensor `{name}`")));
        };
        let values = rows_f32(checkpoint, name, 0..info.rows()).await?;
        Ok(Rows { values, cols: info.columns() })
    }

    fn vector(&mut self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }
}
