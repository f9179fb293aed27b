//! The backward of [`super::attention`] over packed sequences (Dao et al., 2022): probabilities
//! are computed again from the stored log-sum-exp, so that no `[T, T]` matrix ever exists.

use super::attention::{
    AttentionShape, LANES_HEAD_DIM, dot, packed, reference as forward_reference,
};
use super::{ONE, Rows, Tensor, Token, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Extent, Kernel, Lanes, Recorder};

const DELTA: Kernel = Kernel {
    name: "attention_delta",
    source: &[include_str!("step.wgsl"), include_str!("attention_delta.wgsl")],
    storage: &[Read, Read, Read, Write],
};
macro_rules! kernel {
    ($name:literal, $writes:tt, $($part:literal),+) => {
        Kernel {
            name: $name,
            source: &[
                include_str!("step.wgsl"),
                include_str!("token.wgsl"),
                include_str!("attention_backward_bindings.wgsl"),
                $(include_str!($part)),+
            ],
            storage: &kernel!($writes),
        }
    };
    (dq) => { [Read, Read, Read, Read, Read, Read, Write] };
    (dk_dv) => { [Read, Read, Read, Read, Read, Read, Write, Write] };
}
macro_rules! by_rows {
    ($name:literal, $writes:tt, $exchange:literal, $part:literal) => {
        kernel!(
            $name,
            $writes,
            "eight.wgsl",
            $exchange,
            "eight_products.wgsl",
            "attention_backward_rows.wgsl",
            $part
        )
    };
}

const QUERIES: Kernel = kernel!("attention_backward_q", dq, "attention_backward_q.wgsl");
const KEYS: Kernel = kernel!("attention_backward_kv", dk_dv, "attention_backward_kv.wgsl");
const BROADCAST_QUERIES: Kernel = by_rows!(
    "attention_backward_q_broadcast",
    dq,
    "exchange_broadcast.wgsl",
    "attention_backward_q_rows.wgsl"
);
const BROADCAST_KEYS: Kernel = by_rows!(
    "attention_backward_kv_broadcast",
    dk_dv,
    "exchange_broadcast.wgsl",
    "attention_backward_kv_rows.wgsl"
);
const QUADS_QUERIES: Kernel = by_rows!(
    "attention_backward_q_quads",
    dq,
    "exchange_quads.wgsl",
    "attention_backward_q_rows.wgsl"
);
const QUADS_KEYS: Kernel = by_rows!(
    "attention_backward_kv_quads",
    dk_dv,
    "exchange_quads.wgsl",
    "attention_backward_kv_rows.wgsl"
);

/// Tokens that a lane of `attention_backward_q_rows.wgsl` does.
const LANE_TOKENS: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    scale: f32,
}

/// Records the gradients of q, k and v from that of attention's output.
///
/// `qkv` are (T, heads·d), (T, kv_heads·d) twice; `forward` is attention's `out` (T, heads·d), its
/// `lse` (T, heads) and the gradient of `out`; `statistics` (T, 2·heads) is scratch; `gradients`
/// have the shapes of `qkv`. `tokens` are packed without a cache.
pub fn attention_backward(
    r: &mut Recorder,
    [q, k, v]: [&Tensor; 3],
    (out, lse, d_out): (&Tensor, &Tensor, &Tensor),
    tokens: &Buffer,
    shape: AttentionShape,
    statistics: &Tensor,
    [dq, dk, dv]: [&Tensor; 3],
) -> Result<()> {
    shape.check()?;
    let params = Params {
        rows: q.rows(),
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        head_dim: shape.head_dim as u32,
        scale: shape.scale() as f32,
    };
    let bindings = [out.binding(), d_out.binding(), lse.binding(), statistics.binding()];
    let threads = Extent::cover(q.capacity() * shape.heads, 64);
    r.dispatch(&DELTA, &[], &params, &bindings, [threads, ONE, ONE])?;

    let inputs = [
        q.binding(),
        k.binding(),
        v.binding(),
        d_out.binding(),
        tokens.into(),
        statistics.binding(),
    ];
    let lanes = r.context().lanes().filter(|_| shape.head_dim <= LANES_HEAD_DIM);
    let (queries, keys) = match lanes {
        None => (&QUERIES, &KEYS),
        Some(Lanes::Four) => (&QUADS_QUERIES, &QUADS_KEYS),
        Some(Lanes::Eight) => (&BROADCAST_QUERIES, &BROADCAST_KEYS),
    };
    let per = lanes.map_or([1, 1], |lanes| [lanes.count() * LANE_TOKENS, lanes.count()]);
    let eights = [("EIGHTS", shape.head_dim as f64 / 8.0)];
    let constants = if lanes.is_some() { &eights[..] } else { &[] };

    let bindings = [&inputs[..], &[dq.binding()]].concat();
    let grid = [Extent::Fixed(shape.heads as u32), q.per_token(per[0]), ONE];
    r.dispatch(queries, constants, &params, &bindings, grid)?;

    let bindings = [&inputs[..], &[dk.binding(), dv.binding()]].concat();
    let grid = [Extent::Fixed(shape.kv_heads as u32), q.per_token(per[1]), ONE];
    r.dispatch(keys, constants, &params, &bindings, grid)
}

/// The reference of [`attention_backward`]: the gradients of q, k and v.
pub fn reference(
    [q, k, v]: [&[f32]; 3],
    d_out: &[f32],
    tokens: &[Token],
    shape: AttentionShape,
) -> [Vec<f32>; 3] {
    let AttentionShape { heads, kv_heads, head_dim: d } = shape;
    let mut gradients = [vec![0f64; q.len()], vec![0f64; k.len()], vec![0f64; v.len()]];
    for (t, token) in tokens.iter().enumerate() {
        for head in 0..heads {
            let at = (t * heads + head) * d;
            let (query, d_row) = (&q[at..at + d], &d_out[at..at + d]);
            let place = |key: u32| (key as usize * kv_heads + head / (heads / kv_heads)) * d;
            let keys = token.first_key..=token.last_key;
            let score = |key: u32| shape.scale() * dot(query, &k[place(key)..][..d]);
            let highest = keys.clone().map(score).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = keys.clone().map(|key| (score(key) - highest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let pulls: Vec<f64> =
                keys.clone().map(|key| dot(d_row, &v[place(key)..][..d])).collect();
            let mean: f64 = weights.iter().zip(&pulls).map(|(w, p)| w / total * p).sum();
            for ((key, weight), pull) in keys.zip(weights).zip(pulls) {
                let p = weight / total;
                let slope = p * (pull - mean) * shape.scale();
                for i in 0..d {
                    gradients[0][at + i] += slope * f64::from(k[place(key) + i]);
                    gradients[1][place(key) + i] += slope * f64::from(query[i]);
                    gradients[2][place(key) + i] += p * f64::from(d_row[i]);
                }
            }
        }
    }
    gradients.map(|g| g.into_iter().map(|v| v as f32).collect())
}

/// Compares kernels and reference on packed sequences of `lengths`.
pub async fn parity(context: &Context, lengths: &[usize], shape: AttentionShape) -> Result<()> {
    let tokens = packed(lengths);
    let count = tokens.len();
    let (cols, kv_cols) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let q: Vec<f32> = check::noise(1, count * cols).iter().map(|x| 4.0 * x).collect();
    let (k, v) = (check::noise(2, count * kv_cols), check::noise(3, count * kv_cols));
    let d_out = check::noise(4, count * cols);
    let (out, lse) = forward_reference(&q, &k, &v, &tokens, shape);
    let tokens_gpu = context.storage_from("tokens", &tokens)?;
    let tensor = |cols: usize, values: &[f32]| Tensor::from(context, cols, values);
    let inputs = [tensor(cols, &q)?, tensor(kv_cols, &k)?, tensor(kv_cols, &v)?];
    let forward = [tensor(cols, &out)?, tensor(shape.heads, &lse)?, tensor(cols, &d_out)?];
    let statistics = Tensor::new(context, count, 2 * shape.heads)?;
    let empty = |cols| Tensor::new(context, count, cols);
    let gradients = [empty(cols)?, empty(kv_cols)?, empty(kv_cols)?];
    check::run(context, count, |r| {
        attention_backward(
            r,
            inputs.each_ref(),
            (&forward[0], &forward[1], &forward[2]),
            &tokens_gpu,
            shape,
            &statistics,
            gradients.each_ref(),
        )
    })?;
    let expected = reference([&q, &k, &v], &d_out, &tokens, shape);
    for (what, (gradient, expected)) in
        ["dq", "dk", "dv"].iter().zip(gradients.iter().zip(expected))
    {
        let actual = context.read(gradient.buffer(), 0, expected.len()).await?;
        // Sums over up to a sequence of queries.
        check::close(&format!("attention's {what}"), &actual, &expected, 3e-5, 3e-5)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{async_test, test};

    const SHAPES: [(&[usize], AttentionShape); 4] = [
        (&[1], AttentionShape { heads: 1, kv_heads: 1, head_dim: 8 }),
        (&[3, 1, 7], AttentionShape { heads: 9, kv_heads: 3, head_dim: 64 }),
        (&[65, 2, 64], AttentionShape { heads: 2, kv_heads: 1, head_dim: 24 }),
        (&[130, 3], AttentionShape { heads: 2, kv_heads: 2, head_dim: 80 }),
    ];

    #[async_test]
    async fn matches_the_reference_on_packed_sequences() {
        for context in check::test_contexts().await {
            for (lengths, shape) in SHAPES {
                parity(&context, lengths, shape).await.unwrap();
            }
        }
    }

    #[test]
    fn the_reference_is_the_slope_of_the_forward() {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 8 };
        let tokens = packed(&[3, 2]);
        let inputs = [check::noise(1, 80), check::noise(2, 40), check::noise(3, 40)];
        let d_out = check::noise(4, 80);
        let loss = |x: &[Vec<f32>; 3]| {
            dot(&forward_reference(&x[0], &x[1], &x[2], &tokens, shape).0, &d_out)
        };
        let [q, k, v] = &inputs;
        let slopes = reference([q, k, v], &d_out, &tokens, shape);
        for (which, i) in [(0, 5), (0, 79), (1, 0), (1, 33), (2, 7), (2, 39)] {
            let (mut low, mut high) = (inputs.clone(), inputs.clone());
            low[which][i] -= 1e-2;
            high[which][i] += 1e-2;
            let slope = (loss(&high) - loss(&low)) / f64::from(high[which][i] - low[which][i]);
            let expected = f64::from(slopes[which][i]);
            assert!((slope - expected).abs() < 1e-3, "{which} {i}: {slope} {expected}");
        }
    }
}
