//! The backward of [`super::embedding`] towards its table, where that is trained.

use super::weight::{BLOCK, Format, Matrix};
use super::{ONE, Rows, Tensor, Token, check};
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder};
use crate::{Error, Result};

const KERNEL: Kernel = Kernel {
    name: "embedding_gradient",
    source: &[include_str!("step.wgsl"), include_str!("embedding_gradient.wgsl")],
    storage: &[Read, Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    stride: u32,
    first_row: u32,
    table_rows: u32,
}

/// Records `gradient[tokens[t].id, :] += dy[t, :]` for every token.
///
/// `tokens` [`Token`] (T), `dy` (T, cols), `gradient` (vocab, cols) in [`Format::F32`].
pub fn embedding_gradient(
    r: &mut Recorder,
    tokens: &Buffer,
    dy: &Tensor,
    gradient: &Matrix,
) -> Result<()> {
    if gradient.format() != Format::F32 {
        return Err(Error::invalid("gradients are added up in f32"));
    }
    for part in gradient.parts() {
        let params = Params {
            rows: dy.rows(),
            cols: dy.cols() as u32,
            stride: gradient.cols().next_multiple_of(BLOCK) as u32,
            first_row: part.first_row as u32,
            table_rows: part.rows as u32,
        };
        let [values, _] = gradient.planes(part);
        let bindings = [tokens.into(), dy.binding(), values];
        r.dispatch(&KERNEL, &[], &params, &bindings, [dy.per_token(1), ONE, ONE])?;
    }
    Ok(())
}

/// Compares the kernel with sums on the CPU; some ids are there more than once.
pub async fn parity(context: &Context, vocab: usize, cols: usize) -> Result<()> {
    let ids = [0, vocab - 1, vocab / 2, 0, vocab - 1, 0];
    let tokens = ids.map(|id| Token { id: id as u32, ..Default::default() });
    let tokens = context.storage_from("tokens", &tokens)?;
    let dy = check::noise(1, ids.len() * cols);
    let mut expected = check::noise(2, vocab * cols);
    let gradient = Matrix::from_f32(context, Format::F32, cols, &expected)?;
    let dy_gpu = Tensor::from(context, cols, &dy)?;
    check::run(context, ids.len(), |r| embedding_gradient(r, &tokens, &dy_gpu, &gradient))?;
    for (&id, dy) in ids.iter().zip(dy.chunks_exact(cols)) {
        let row = &mut expected[id * cols..(id + 1) * cols];
        row.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
    }
    let actual = gradient.read_f32(context).await?;
    check::close("embedding_gradient", &actual, &expected, 1e-6, 1e-5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_sums() {
        let context = check::test_context().await;
        for (vocab, cols) in [(1, 1), (5, 45), (64, 576)] {
            parity(&context, vocab, cols).await.unwrap();
        }
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..Default::default() };
        let options = crate::gpu::ContextOptions { limits: Some(limits), ..Default::default() };
        parity(&Context::new(&options).await.unwrap(), 300, 45).await.unwrap();
    }
}
