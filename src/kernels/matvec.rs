//! `y = W x` for one token, with everything that surrounds such a product in a decoder in the same
//! dispatch: the norm before it, the gate of the MLP after it, residual, and a low-rank update's two
//! halves, of which the first comes with a product of the same input and the second with the one
//! that is updated. A decoded token then takes few dispatches, each with much to do.
//!
//! `matvec.wgsl` is bound by reading W; software adapters take `matvec_rows.wgsl`.

use super::lora::{self, Param};
use super::weight::{Format, Matrix};
use super::{ONE, Tensor, check, matmul, rms_norm, silu_mul, weight};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Recorder, Variant};

macro_rules! kernel {
    ($name:literal, $($part:literal),+) => {
        Kernel {
            name: $name,
            source: &[
                include_str!("step.wgsl"),
                include_str!("eight.wgsl"),
                include_str!("weight.wgsl"),
                include_str!("matvec_bindings.wgsl"),
                $(include_str!($part)),+
            ],
            storage: &[Read, Read, Read, Read, Read, Read, Read, Write],
        }
    };
}

const TILES: Kernel = kernel!("matvec_tile", "matvec.wgsl");
const LOADS: Kernel = kernel!("matvec_loads", "matvec_loads.wgsl", "matvec_rows.wgsl");
const BROADCAST: Kernel =
    kernel!("matvec_broadcast", "spread.wgsl", "matvec_broadcast.wgsl", "matvec_rows.wgsl");

/// Rows of W that a workgroup of `matvec.wgsl` does, pairs or not, and of `matvec_rows.wgsl`, or half as
/// many pairs.
const ROWS: usize = 8;
const GROUP_ROWS: usize = 64;
/// Columns of an A that a workgroup does.
const COLUMNS: usize = 8;

/// Most [`Down`]s of a dispatch.
pub const MOST_DOWN: usize = 3;

/// What surrounds a product; nothing by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// x is normalised first ([`rms_norm`]): weight (in) and ε.
    pub norm: Option<(&'a Buffer, f32)>,
    /// Two rows become one output, `y[o] = silu(W[o] x) · (W[o + gate] x)`: y has so many outputs.
    pub gate: Option<Gate>,
    /// (out)
    pub bias: Option<&'a Buffer>,
    /// (1, out)
    pub residual: Option<&'a Tensor>,
    /// A low-rank update of W that is added.
    pub up: Option<Up<'a>>,
    /// The first halves of updates by the same x; at most [`MOST_DOWN`].
    pub down: &'a [Down<'a>],
}

/// Which rows of W [`Extras::gate`] pairs.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// Pairs of rows.
    pub outs: usize,
    /// Rows from the first of a pair to the second.
    pub distance: usize,
}

/// `+ scale · h B`, where h is a sum of parts that stand behind x.
#[derive(Debug, Clone, Copy)]
pub struct Up<'a> {
    /// (rank, out)
    pub b: Param<'a>,
    /// Columns of A.
    pub rank: usize,
    /// Of the update.
    pub scale: f32,
    /// The column of x's tensor where (parts, rank) begins.
    pub at: usize,
    /// How many add up to h.
    pub parts: usize,
}

/// `h = x A`, which goes behind y.
#[derive(Debug, Clone, Copy)]
pub struct Down<'a> {
    /// (in, rank), in the buffer of every other parameter of the dispatch.
    pub a: Param<'a>,
    /// Columns of A.
    pub rank: usize,
    /// The column of y's tensor where h begins.
    pub at: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    in_features: u32,
    out_features: u32,
    first_out: u32,
    part_rows: u32,
    second: u32,
    y_at: u32,
    x_at: u32,
    row_groups: u32,
    has_bias: u32,
    has_residual: u32,
    eps: f32,
    up_scale: f32,
    up: [u32; 4],
    down: [[u32; 4]; MOST_DOWN],
}

/// Records `y = W x` with `extras` for a token.
///
/// `x` (1, in) and what [`Up`] says, `w` (out, in), `y` (1, out) and what [`Down`] says. `x` may be a
/// window that begins at a multiple of four values; only without [`Down`] may `y` be one. Without a
/// token in use nothing is done. A gated W is in one part.
pub fn matvec(
    r: &mut Recorder,
    x: &Tensor,
    w: &Matrix,
    extras: Extras<'_>,
    y: &Tensor,
) -> Result<()> {
    let Extras { norm, gate, bias, residual, up, down } = extras;
    let outs = gate.map_or(w.rows(), |gate| gate.outs);
    let paired = if gate.is_some() { GROUP_ROWS / 2 } else { GROUP_ROWS };
    let (kernel, per) = match r.context().variants().matvec {
        Variant::Tile => (&TILES, ROWS),
        Variant::Loads | Variant::Quads => (&LOADS, paired),
        Variant::Broadcast => (&BROADCAST, paired),
    };
    let constants = [
        w.format().constant(),
        ("NORM", f64::from(u8::from(norm.is_some()))),
        ("GATED", f64::from(u8::from(gate.is_some()))),
    ];
    let parameters = up.map(|up| up.b.buffer).or(down.first().map(|down| down.a.buffer));
    for part in w.parts() {
        let rows = part.rows.min(outs);
        let row_groups = rows.div_ceil(per);
        let mut groups = row_groups;
        let mut params = Params {
            in_features: w.cols() as u32,
            out_features: outs as u32,
            first_out: part.first_row as u32,
            part_rows: rows as u32,
            second: gate.map_or(0, |gate| gate.distance as u32),
            y_at: y.first_row() * outs as u32,
            x_at: x.first_row() * w.cols() as u32 / 4,
            row_groups: row_groups as u32,
            has_bias: bias.is_some().into(),
            has_residual: residual.is_some().into(),
            eps: norm.map_or(0.0, |(_, eps)| eps),
            up_scale: up.map_or(0.0, |up| up.scale),
            up: up
                .map_or([0; 4], |up| [up.b.offset, up.rank as u32, up.at as u32, up.parts as u32]),
            down: [[0, 0, 0, u32::MAX]; MOST_DOWN],
        };
        // Once, with the first part.
        let down = if part.first_row == 0 { down } else { &[] };
        for (slot, down) in params.down.iter_mut().zip(down) {
            *slot = [down.a.offset, down.rank as u32, down.at as u32, groups as u32];
            groups += down.rank.div_ceil(COLUMNS);
        }
        let [values, scales] = w.planes(part);
        let bindings = [
            values,
            scales,
            x.binding(),
            // Unused bindings hold what is bound as read-only anyway.
            norm.map_or(x.binding(), |(weight, _)| weight.into()),
            parameters.map_or(x.binding(), Into::into),
            bias.map_or(x.binding(), Into::into),
            residual.map_or(x.binding(), Tensor::binding),
            y.binding(),
        ];
        let grid = [Extent::Fixed(groups as u32), y.per_token(1), ONE];
        r.dispatch(kernel, &constants, &params, &bindings, grid)?;
    }
    Ok(())
}

/// Compares the kernel with everything around it, by turns, with the references of its parts.
pub async fn parity(
    context: &Context,
    format: Format,
    (outs, ins): (usize, usize),
    rank: usize,
) -> Result<()> {
    let (eps, scale, parts) = (1e-3, 1.5, 3);
    let (matrix, weights) = weight::noise_matrix(context, format, outs, ins)?;
    let (x, norm) = (check::noise(1, ins), check::noise(2, ins));
    let (bias, residual) = (check::noise(3, outs), check::noise(4, outs));
    // An h that its parts add up to, and three A's and a B at odd places.
    let h = check::noise(5, parts * rank);
    let parameters = check::noise(6, 3 + rank * (3 * ins + outs));
    let a = |i: usize| 3 + rank * i * ins;
    let h_at = ins.next_multiple_of(4) + 1;
    let mut x_values = x.clone();
    x_values.resize(h_at, f32::NAN);
    x_values.extend(&h);

    let x_gpu = Tensor::from(context, x_values.len(), &x_values)?;
    let norm_gpu = context.storage_from("norm", &norm)?;
    let bias_gpu = context.storage_from("bias", &bias)?;
    let residual_gpu = Tensor::from(context, outs, &residual)?;
    let parameters_gpu = context.storage_from("parameters", &parameters)?;
    let param = |offset: usize| Param { buffer: &parameters_gpu, offset: offset as u32 };
    let down: Vec<Down<'_>> =
        (0..3).map(|i| Down { a: param(a(i)), rank, at: outs + i * rank }).collect();
    let gate = Gate { outs: outs / 2, distance: outs - outs / 2 };
    let y = |cols| Tensor::new(context, 1, cols);
    let (normed, updated, gated) = (y(outs + 3 * rank)?, y(outs)?, y(gate.outs.max(1))?);
    check::run(context, 1, |r| {
        let norm = Some((&norm_gpu, eps));
        matvec(r, &x_gpu, &matrix, Extras { norm, down: &down, ..Extras::default() }, &normed)?;
        let up = Up { b: param(a(3)), rank, scale, at: h_at, parts };
        let (bias, residual) = (Some(&bias_gpu), Some(&residual_gpu));
        let extras = Extras { bias, residual, up: Some(up), ..Extras::default() };
        matvec(r, &x_gpu, &matrix, extras, &updated)?;
        if gate.outs == 0 {
            return Ok(());
        }
        matvec(r, &x_gpu, &matrix, Extras { norm, gate: Some(gate), ..Extras::default() }, &gated)
    })?;

    let normed_x = rms_norm::reference(&x, &norm, eps);
    let product = matmul::reference(&normed_x, &weights, ins, None, None);
    let columns = (0..3)
        .flat_map(|i| lora::reference(&normed_x, &parameters[a(i)..][..ins * rank], ins, 1.0));
    let expected_normed: Vec<f32> = product.iter().copied().chain(columns).collect();

    let whole_h: Vec<f32> = (0..rank).map(|j| h[j..].iter().step_by(rank).sum()).collect();
    let update = lora::reference(&whole_h, &parameters[a(3)..], rank, scale);
    let expected_updated: Vec<f32> =
        matmul::reference(&x, &weights, ins, Some(&bias), Some(&residual))
            .iter()
            .zip(update)
            .map(|(y, update)| y + update)
            .collect();
    let expected_gated = silu_mul::reference(&product[..gate.outs], &product[gate.distance..]);

    let atol = 4e-7 * (ins.max(rank) as f32);
    for (what, tensor, expected) in [
        ("matvec of a norm", normed, expected_normed),
        ("matvec with an update", updated, expected_updated),
        ("matvec of a gate", gated, expected_gated),
    ] {
        let actual = context.read(tensor.buffer(), 0, expected.len()).await?;
        check::close(what, &actual, &expected, atol, 1e-5)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_references_in_every_format() {
        for context in check::test_contexts().await {
            for format in Format::ALL {
                for (shape, rank) in
                    [((1, 32), 1), ((9, 45), 3), ((66, 100), 8), ((65, 33), 19), ((140, 576), 16)]
                {
                    parity(&context, format, shape, rank).await.unwrap();
                }
            }
        }
    }
}
