//! Looks token ids up in the embedding table.

use super::weight::{Format, Matrix};
use super::{ONE, Rows, Tensor, Token, check, weight};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "embedding",
    source: &[
        include_str!("step.wgsl"),
        include_str!("eight.wgsl"),
        include_str!("weight.wgsl"),
        include_str!("embedding.wgsl"),
    ],
    storage: &[Read, Read, Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    first_row: u32,
    table_rows: u32,
    pad: u32,
}

/// Records `y[t, :] = table[tokens[t].id, :]`.
///
/// `table` (vocab, cols), `tokens` [`Token`] (T), `y` (T, cols). An id outside the table leaves its
/// row as it was; whoever fills `tokens` checks ids.
pub fn embedding(r: &mut Recorder, table: &Matrix, tokens: &Buffer, y: &Tensor) -> Result<()> {
    for part in table.parts() {
        let params = Params {
            rows: y.rows(),
            cols: y.cols() as u32,
            first_row: part.first_row as u32,
            table_rows: part.rows as u32,
            pad: 0,
        };
        let [values, scales] = table.planes(part);
        let bindings = [values, scales, tokens.into(), y.binding()];
        let constants = [table.format().constant()];
        r.dispatch(&KERNEL, &constants, &params, &bindings, [y.per_token(1), ONE, ONE])?;
    }
    Ok(())
}

/// The reference of [`embedding`].
pub fn reference(table: &[f32], cols: usize, ids: &[u32]) -> Vec<f32> {
    ids.iter().flat_map(|&id| &table[id as usize * cols..][..cols]).copied().collect()
}

/// Compares kernel and reference.
pub async fn parity(context: &Context, format: Format, vocab: usize, cols: usize) -> Result<()> {
    let (table, weights) = weight::noise_matrix(context, format, vocab, cols)?;
    let ids = [0, vocab as u32 - 1, vocab as u32 / 2];
    let tokens = ids.map(|id| Token { id, ..Default::default() });
    let tokens = context.storage_from("tokens", &tokens)?;
    let y = Tensor::new(context, ids.len(), cols)?;
    check::run(context, ids.len(), |r| embedding(r, &table, &tokens, &y))?;
    let actual = context.read(y.buffer(), 0, ids.len() * cols).await?;
    // One rounding of f16 scales and products.
    check::close("embedding", &actual, &reference(&weights, cols, &ids), 1e-6, 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference_in_every_format() {
        let context = check::test_context().await;
        for format in Format::ALL {
            for (vocab, cols) in [(3, 32), (5, 45), (64, 576)] {
                parity(&context, format, vocab, cols).await.unwrap();
            }
        }
    }

    #[async_test]
    async fn a_table_in_parts_gives_the_same_rows() {
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..Default::default() };
        let options = crate::gpu::ContextOptions { limits: Some(limits), ..Default::default() };
        let context = Context::new(&options).await.unwrap();
        for format in Format::ALL {
            let table = Matrix::new(&context, format, 700, 45).unwrap();
            assert!(table.parts().len() > 2, "{format:?} is not split");
            parity(&context, format, 700, 45).await.unwrap();
        }
    }
}
