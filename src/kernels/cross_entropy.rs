//! Cross-entropy over a chunk of logits, and its gradient in their place: the logits of all
//! tokens never exist at once.

use super::{ONE, Rows, Target, Tensor, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "cross_entropy",
    source: &[include_str!("step.wgsl"), include_str!("cross_entropy.wgsl")],
    storage: &[Read, Write, Write],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: Rows,
    vocab: u32,
    stride: u32,
    want_gradient: u32,
    pad: [u32; 3],
}

/// Records `losses[t] = weight · (log Σ exp(logits) − logits[target])` and, with `want_gradient`,
/// `logits ← weight · (softmax(logits) − onehot(target))`.
///
/// `logits` (rows, vocab or more) are those of the replay's tokens from `logits.rows().begin` on; `targets`
/// [`Target`] and `losses` f32 are those of all tokens (T). Target ids are inside the vocabulary.
pub fn cross_entropy(
    r: &mut Recorder,
    (logits, vocab): (&Tensor, usize),
    targets: &Buffer,
    losses: &Buffer,
    want_gradient: bool,
) -> Result<()> {
    let params = Params {
        rows: logits.rows(),
        vocab: vocab as u32,
        stride: logits.cols() as u32,
        want_gradient: want_gradient.into(),
        pad: [0; 3],
    };
    let bindings = [targets.into(), logits.binding(), losses.into()];
    r.dispatch(&KERNEL, &[], &params, &bindings, [logits.per_token(1), ONE, ONE])
}

/// The reference of [`cross_entropy`]: losses and gradients of every row.
pub fn reference(logits: &[f32], targets: &[Target]) -> (Vec<f32>, Vec<f32>) {
    let vocab = logits.len() / targets.len();
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for (row, target) in logits.chunks_exact(vocab).zip(targets) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp = |&x: &f32| f64::from(x - highest).exp();
        let total: f64 = row.iter().map(exp).sum();
        let weight = f64::from(target.weight);
        let goal = row[target.id as usize];
        losses.push((weight * (f64::from(highest) + total.ln() - f64::from(goal))) as f32);
        gradients.extend(row.iter().enumerate().map(|(i, x)| {
            let onehot = f64::from(u8::from(i == target.id as usize));
            (weight * (exp(x) / total - onehot)) as f32
        }));
    }
    (losses, gradients)
}

/// Compares kernel and reference on the tokens from `begin` on of `tokens`.
pub async fn parity(context: &Context, begin: usize, tokens: usize, vocab: usize) -> Result<()> {
    let rows = tokens - begin;
    let logits: Vec<f32> = check::noise(1, rows * vocab).iter().map(|x| 20.0 * x).collect();
    // With columns that are nobody's.
    let stride = vocab + 3;
    let mut padded: Vec<f32> = Vec::new();
    for row in logits.chunks_exact(vocab) {
        padded.extend(row.iter().copied().chain([f32::NAN; 3]));
    }
    let weights = check::noise(2, tokens);
    let target = |t: usize| Target {
        id: ((t * 7919 + vocab - 1) % vocab) as u32,
        weight: if t % 3 == 1 { 0.0 } else { weights[t] },
    };
    let targets: Vec<Target> = (0..tokens).map(target).collect();
    let targets_gpu = context.storage_from("targets", &targets)?;
    let losses = context.storage_from("losses", &vec![9f32; tokens])?;
    let memory = Tensor::from(context, stride, &padded)?;
    let chunk_rows = Rows { begin: begin as u32, max: rows as u32 };
    let chunk = Tensor::in_buffer(memory.buffer().clone().into(), chunk_rows, stride);
    check::run(context, tokens, |r| {
        cross_entropy(r, (&chunk, vocab), &targets_gpu, &losses, true)
    })?;
    let (mut expected, gradients) = reference(&logits, &targets[begin..]);
    expected.splice(0..0, vec![9.0; begin]);
    let actual = context.read(&losses, 0, tokens).await?;
    check::close("cross_entropy", &actual, &expected, 1e-5, 1e-5)?;
    let padded: Vec<f32> = context.read(chunk.buffer(), 0, rows * stride).await?;
    let actual: Vec<f32> =
        padded.chunks_exact(stride).flat_map(|row| &row[..vocab]).copied().collect();
    check::close("cross_entropy's gradient", &actual, &gradients, 1e-6, 2e-5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_reference_whole_and_in_chunks() {
        let context = check::test_context().await;
        for (begin, tokens, vocab) in [(0, 1, 2), (0, 5, 255), (2, 7, 1000), (3, 4, 49152)] {
            parity(&context, begin, tokens, vocab).await.unwrap();
        }
    }

    #[async_test]
    async fn without_a_gradient_the_logits_stay() {
        let context = check::test_context().await;
        let logits = check::noise(1, 6);
        let gpu = Tensor::from(&context, 3, &logits).unwrap();
        let targets = [Target { id: 2, weight: 1.0 }; 2];
        let targets = context.storage_from("targets", &targets).unwrap();
        let losses = context.storage("losses", 8).unwrap();
        check::run(&context, 2, |r| cross_entropy(r, (&gpu, 3), &targets, &losses, false)).unwrap();
        let after: Vec<f32> = context.read(gpu.buffer(), 0, 6).await.unwrap();
        assert_eq!(after, logits);
    }
}
