//! The gate of the MLP for one decoded token with an adapter: what [`matvec`](super::matvec) does by
//! itself where there is none.

use super::attention_step::{Narrow, NarrowParams, Pending, UpParams};
use super::lora::{self, Param};
use super::{ONE, Tensor, check, silu_mul};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Context, Extent, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "gate",
    source: &[include_str!("step.wgsl"), include_str!("narrow.wgsl"), include_str!("gate.wgsl")],
    storage: &[Read, Read, Write],
};

/// Features that a workgroup does.
const FEATURES: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    cols: u32,
    second: u32,
    pad: [u32; 2],
    up: [UpParams; 2],
    down: NarrowParams,
}

/// How many shares of h [`gate`] writes.
pub fn shares(cols: usize) -> usize {
    cols.div_ceil(FEATURES)
}

/// Records `out = silu(gate) · up` of the updated gate and up, each (1, cols), for one token.
///
/// `x` holds gate, up from column `second` on, and the h's of `pending`; `out` (1, cols) and
/// [`shares`] of `down`. All parameters are in one buffer.
pub fn gate(
    r: &mut Recorder,
    x: &Tensor,
    (cols, second): (usize, usize),
    pending: [Option<Pending<'_>>; 2],
    down: Option<Narrow<'_>>,
    out: &Tensor,
) -> Result<()> {
    let params = Params {
        cols: cols as u32,
        second: second as u32,
        pad: [0; 2],
        up: pending.map(UpParams::of),
        down: NarrowParams::of(down),
    };
    let buffers = pending.iter().flatten().map(|pending| pending.b.buffer);
    let parameters = buffers.chain(down.map(|down| down.a.buffer)).next();
    let bindings = [x.binding(), parameters.map_or(x.binding(), Into::into), out.binding()];
    r.dispatch(&KERNEL, &[], &params, &bindings, [Extent::cover(cols, FEATURES), ONE, ONE])
}

/// Compares the kernel with the references of its parts.
pub async fn parity(context: &Context, cols: usize, rank: usize) -> Result<()> {
    const SCALE: f32 = 0.5;
    let second = cols + 3;
    let h_at = [second + cols, second + cols + rank];
    let x = check::noise(1, second + cols + 2 * rank);
    let parameters = check::noise(2, 3 + 3 * rank * cols);
    let [gate_b, up_b, a] = [0, 1, 2].map(|i| 3 + i * rank * cols);

    let x_gpu = Tensor::from(context, x.len(), &x)?;
    let parameters_gpu = context.storage_from("parameters", &parameters)?;
    let param = |offset: usize| Param { buffer: &parameters_gpu, offset: offset as u32 };
    let out = Tensor::new(context, 1, cols + shares(cols) * rank)?;
    check::run(context, 1, |r| {
        let pending = [(gate_b, h_at[0]), (up_b, h_at[1])]
            .map(|(b, at)| Some(Pending { b: param(b), rank, at, scale: SCALE }));
        let down = Some(Narrow { a: param(a), rank, at: cols });
        gate(r, &x_gpu, (cols, second), pending, down, &out)
    })?;

    let updated = |at: usize, b: usize, h: usize| -> Vec<f32> {
        let update = lora::reference(&x[h..][..rank], &parameters[b..][..rank * cols], rank, SCALE);
        x[at..][..cols].iter().zip(update).map(|(x, update)| x + update).collect()
    };
    let (gate, up) = (updated(0, gate_b, h_at[0]), updated(second, up_b, h_at[1]));
    let mut expected = silu_mul::reference(&gate, &up);
    let features = expected.clone();
    for (features, a) in features.chunks(FEATURES).zip(parameters[a..].chunks(FEATURES * rank)) {
        expected.extend(lora::reference(features, a, features.len(), 1.0));
    }
    let actual = context.read(out.buffer(), 0, expected.len()).await?;
    check::close("gate", &actual, &expected, 1e-5, 1e-5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_references() {
        let context = check::test_context().await;
        for (cols, rank) in [(1, 1), (65, 3), (257, 8), (600, 19)] {
            parity(&context, cols, rank).await.unwrap();
        }
    }
}
