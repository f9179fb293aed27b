//! Rotary position embedding (Su et al., 2021) in Hugging Face's half-split layout.

use super::{Rows, Tensor, Token, check};
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder};
use crate::{Error, Result};

const KERNEL: Kernel = Kernel {
    name: "rope",
    source: &[include_str!("step.wgsl"), include_str!("token.wgsl"), include_str!("rope.wgsl")],
    storage: &[Read, Read, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    cols: u32,
    head_dim: u32,
    direction: f32,
    pad: u32,
}

/// Records the rotation, in place, of the pair `(x[i], x[i + d/2])` of every head by the angle
/// whose `(cos, sin)` is `table[position, i]`; `inverse` rotates back, which is the backward.
///
/// `x` (T, heads·d); `tokens` one [`Token`] for each of the replay's tokens; `table` (positions,
/// d/2) of two f32.
///
/// # Errors
/// [`Error::Invalid`] if `head_dim` is odd or does not divide the columns.
pub fn rope(
    r: &mut Recorder,
    x: &Tensor,
    tokens: &Buffer,
    table: &Buffer,
    head_dim: usize,
    inverse: bool,
) -> Result<()> {
    if head_dim == 0 || !head_dim.is_multiple_of(2) || !x.cols().is_multiple_of(head_dim) {
        let cols = x.cols();
        return Err(Error::invalid(format!("rope: {cols} columns in heads of {head_dim}")));
    }
    let params = Params {
        rows: x.rows(),
        cols: x.cols() as u32,
        head_dim: head_dim as u32,
        direction: if inverse { -1.0 } else { 1.0 },
        pad: 0,
    };
    let bindings = [tokens.into(), table.into(), x.binding()];
    let grid = [Extent::cover(x.cols() / 2, 64), x.per_token(1), super::ONE];
    r.dispatch(&KERNEL, &[], &params, &bindings, grid)
}

/// The reference of [`rope`]: `table` holds `[cos, sin]` and `positions` a position for each row.
pub fn reference(
    x: &mut [f32],
    positions: &[u32],
    table: &[[f32; 2]],
    head_dim: usize,
    inverse: bool,
) {
    let half = head_dim / 2;
    let cols = x.len() / positions.len();
    for (row, &position) in x.chunks_exact_mut(cols).zip(positions) {
        for head in row.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let [cos, sin] = table[position as usize * half + i].map(f64::from);
                let sin = if inverse { -sin } else { sin };
                let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
                head[i] = (a * cos - b * sin) as f32;
                head[i + half] = (b * cos + a * sin) as f32;
            }
        }
    }
}

/// Compares kernel and reference on `tokens` rows of `heads` heads of `head_dim`, both ways.
pub async fn parity(context: &Context, tokens: usize, heads: usize, head_dim: usize) -> Result<()> {
    let cols = heads * head_dim;
    let positions: Vec<u32> = (0..tokens as u32).map(|t| t * 7 % 11).collect();
    let angles = check::noise(3, 11 * head_dim / 2);
    let table: Vec<[f32; 2]> = angles.iter().map(|a| [(a * 4.0).cos(), (a * 4.0).sin()]).collect();
    let list: Vec<Token> =
        positions.iter().map(|&position| Token { position, ..Token::default() }).collect();
    let (tokens_gpu, table_gpu) =
        (context.storage_from("tokens", &list)?, context.storage_from("table", &table)?);
    for inverse in [false, true] {
        let mut x = check::noise(1, tokens * cols);
        let x_gpu = Tensor::from(context, cols, &x)?;
        check::run(context, tokens, |r| {
            rope(r, &x_gpu, &tokens_gpu, &table_gpu, head_dim, inverse)
        })?;
        reference(&mut x, &positions, &table, head_dim, inverse);
        let actual = context.read(x_gpu.buffer(), 0, tokens * cols).await?;
        check::close("rope", &actual, &x, 1e-6, 1e-6)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{async_test, test};

    #[async_test]
    async fn matches_the_reference() {
        let context = check::test_context().await;
        for (tokens, heads, head_dim) in [(1, 1, 2), (5, 3, 64), (13, 2, 80), (3, 5, 6)] {
            parity(&context, tokens, heads, head_dim).await.unwrap();
        }
    }

    #[test]
    fn rotates_as_rotate_half_does() {
        // Hugging Face: x·cos + rotate_half(x)·sin, rotate_half(a, b) = (−b, a).
        let mut x = [1.0, 2.0, 3.0, 4.0];
        reference(&mut x, &[0], &[[0.0, 1.0], [0.0, 1.0]], 4, false);
        assert_eq!(x, [-3.0, -4.0, 1.0, 2.0]);
        reference(&mut x, &[0], &[[0.0, 1.0], [0.0, 1.0]], 4, true);
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0]);
    }

    #[async_test]
    async fn refuses_an_odd_head() {
        let context = check::test_context().await;
        let x = Tensor::new(&context, 1, 6).unwrap();
        let buffer = context.storage("any", 16).unwrap();
        assert!(check::run(&context, 1, |r| rope(r, &x, &buffer, &buffer, 3, false)).is_err());
    }
}
