//! Chooses the next token on the GPU, so that decoding needs no host between tokens.

use super::{ONE, Tensor, Token, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "sample",
    source: &[include_str!("step.wgsl"), include_str!("sample.wgsl")],
    storage: &[Read, Read, Write, Write, Write],
};

/// How to choose: the WGSL `Sampling`, with the names of Hugging Face's `GenerationConfig`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SampleParams {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps that many of the most likely tokens, and those as likely as the last of them; 0 all.
    pub top_k: u32,
    /// Keeps the fewest tokens whose probabilities add up to this, and those as likely as the last
    /// of them; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides (if positive, else multiplies) the logits of tokens that were seen; 1 is none.
    pub repeat_penalty: f32,
    /// Nothing.
    pub pad: u32,
    /// With a token's position it makes the draw.
    pub seed: [u32; 2],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    vocab: u32,
    picks: u32,
    pad: [u32; 2],
}

/// Buffers that [`sample`] works on beside the logits.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// [`SampleParams`] (1)
    pub sampling: &'a Buffer,
    /// [`Token`] (1): the one that was computed, then the one that was chosen.
    pub token: &'a Buffer,
    /// A bit a token of the vocabulary, of the lowest bit first, u32: those that were seen.
    pub seen: &'a Buffer,
    /// The choice at position p stands at `p % picks.len()`, u32.
    pub picks: &'a Buffer,
}

/// Words of [`Choice::seen`].
pub fn seen_words(vocab: usize) -> usize {
    vocab.div_ceil(32)
}

/// [`Choice::seen`] of these tokens.
pub fn seen_bits(vocab: usize, seen: &[u32]) -> Vec<u32> {
    let mut bits = vec![0; seen_words(vocab)];
    for id in seen {
        if let Some(word) = bits.get_mut(*id as usize / 32) {
            *word |= 1 << (id % 32);
        }
    }
    bits
}

/// Records that a token chosen by `logits` (1, vocab) becomes the id of the token, whose position and
/// last key move on by one, that it counts as seen, and that it is noted among the picks.
///
/// Of equals the lowest id wins. If no logit is a number, the pick is `u32::MAX`.
pub fn sample(r: &mut Recorder, logits: &Tensor, choice: Choice<'_>) -> Result<()> {
    let Choice { sampling, token, seen, picks } = choice;
    let params =
        Params { vocab: logits.cols() as u32, picks: (picks.size() / 4) as u32, pad: [0; 2] };
    let bindings = [sampling.into(), logits.binding(), token.into(), seen.into(), picks.into()];
    r.dispatch(&KERNEL, &[], &params, &bindings, [ONE, ONE, ONE])
}

/// The reference of [`sample`]'s pick for the token at `position`; `seen` has the tokens that the
/// penalty is for.
pub fn reference(logits: &[f32], sampling: &SampleParams, seen: &[u32], position: u32) -> u32 {
    let mut logits: Vec<(u32, f64)> =
        (0..).zip(logits).map(|(id, &logit)| (id, f64::from(logit))).collect();
    let bits = seen_bits(logits.len(), seen);
    let penalty = f64::from(sampling.repeat_penalty);
    for (id, logit) in &mut logits {
        if bits[*id as usize / 32] >> (*id % 32) & 1 == 1 {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    logits.retain(|(_, logit)| *logit > f64::NEG_INFINITY);
    // Most likely first; of equals the lower id.
    logits.sort_by(|a, b| b.1.total_cmp(&a.1));
    let Some(&(best, highest)) = logits.first() else { return u32::MAX };
    if sampling.temperature == 0.0 {
        return best;
    }
    // Cuts after the first `count`, but not between equals.
    let cut = |logits: &mut Vec<(u32, f64)>, count: usize| {
        if let Some(&(_, last)) = logits.get(count.saturating_sub(1)) {
            logits.retain(|(_, logit)| *logit >= last);
        }
    };
    if sampling.top_k > 0 {
        cut(&mut logits, sampling.top_k as usize);
    }
    let scaled = |logit: f64| (logit - highest) / f64::from(sampling.temperature);
    if sampling.top_p < 1.0 {
        let total: f64 = logits.iter().map(|(_, logit)| scaled(*logit).exp()).sum();
        let (wanted, mut sum) = (f64::from(sampling.top_p) * total, 0.0);
        let reaches = |(_, logit): &(u32, f64)| {
            sum += scaled(*logit).exp();
            sum >= wanted
        };
        let before = logits.iter().position(reaches).unwrap_or(logits.len());
        cut(&mut logits, before + 1);
    }
    logits.retain(|(_, logit)| scaled(*logit).exp() >= f64::from(sampling.min_p));
    let [low, high] = sampling.seed;
    let score = |&(id, logit): &(u32, f64)| scaled(logit) + gumbel([low, high, position, id]);
    let better = |a: (u32, f64), b: (u32, f64)| if b.1 > a.1 { b } else { a };
    logits.sort_by_key(|(id, _)| *id);
    let scores = logits.iter().map(|candidate| (candidate.0, score(candidate)));
    scores.reduce(better).map_or(best, |(id, _)| id)
}

fn gumbel(seed: [u32; 4]) -> f64 {
    let bits = hash(seed) >> 9;
    -(-((f64::from(bits) + 0.5) / 8_388_608.0).ln()).ln()
}

/// Jarzynski & Olano, *Hash Functions for GPU Rendering* (2020): pcg4d.
fn hash(seed: [u32; 4]) -> u32 {
    let [mut x, mut y, mut z, mut w] =
        seed.map(|v| v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    x = x.wrapping_add(y.wrapping_mul(w));
    y = y.wrapping_add(z.wrapping_mul(x));
    z = z.wrapping_add(x.wrapping_mul(y));
    w = w.wrapping_add(y.wrapping_mul(z));
    [x, y, z, w] = [x, y, z, w].map(|v| v ^ (v >> 16));
    x = x.wrapping_add(y.wrapping_mul(w));
    y = y.wrapping_add(z.wrapping_mul(x));
    z = z.wrapping_add(x.wrapping_mul(y));
    w.wrapping_add(y.wrapping_mul(z))
}

/// The most likely token.
pub const GREEDY: SampleParams = SampleParams {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.0,
    pad: 0,
    seed: [0; 2],
};

/// Compares kernel and reference, and the token it leaves, for a text in which `seen` stood.
pub async fn parity(
    context: &Context,
    logits: &[f32],
    sampling: &SampleParams,
    seen: &[u32],
) -> Result<()> {
    let vocab = logits.len();
    let gpu = Tensor::from(context, vocab, logits)?;
    let before = Token { id: 1, position: 6, first_key: 0, last_key: 6 };
    let token = context.storage_from("token", &[before])?;
    let picks = context.storage_from("picks", &[0u32; 4])?;
    let bits = context.storage_from("seen", &seen_bits(vocab, seen))?;
    let params = context.storage_from("sampling", &[*sampling])?;
    let choice = Choice { sampling: &params, token: &token, seen: &bits, picks: &picks };
    check::run(context, 1, |r| sample(r, &gpu, choice))?;
    let expected = reference(logits, sampling, seen, 7);
    let picks: Vec<u32> = context.read(&picks, 0, 4).await?;
    let after: Vec<Token> = context.read(&token, 0, 1).await?;
    let bits: Vec<u32> = context.read(&bits, 0, seen_words(vocab)).await?;
    let id = expected.min(vocab as u32 - 1);
    let right = after[0] == Token { id, position: 7, first_key: 0, last_key: 7 };
    let seen: Vec<u32> = seen.iter().copied().chain([id]).collect();
    if picks == [0, 0, 0, expected] && right && bits == seen_bits(vocab, &seen) {
        return Ok(());
    }
    let found = format!("sample: picked {picks:?} and left {after:?}, not {expected}");
    Err(crate::Error::Gpu(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{async_test, test};

    const WARM: SampleParams = SampleParams { temperature: 0.8, seed: [7, 9], ..GREEDY };

    #[async_test]
    async fn picks_what_the_reference_picks() {
        let context = check::test_context().await;
        let mut ties = vec![0.5; 700];
        ties[300] = 2.0;
        ties[44] = 2.0;
        for logits in [
            check::noise(1, 1),
            check::noise(2, 255),
            check::noise(3, 49152),
            ties,
            vec![-1e30, -2e30],
            vec![f32::NEG_INFINITY, -5.0],
        ] {
            parity(&context, &logits, &GREEDY, &[]).await.unwrap();
        }
    }

    #[async_test]
    async fn draws_what_the_reference_draws() {
        let context = check::test_context().await;
        let mut logits: Vec<f32> = check::noise(1, 3000).iter().map(|v| v * 12.0).collect();
        logits[17] = f32::NAN;
        logits[18] = f32::NEG_INFINITY;
        // Ties at what top-k cuts.
        logits[20..60].fill(11.0);
        for seed in 0..12 {
            let warm = SampleParams { seed: [seed, 3], ..WARM };
            for sampling in [
                warm,
                SampleParams { temperature: 3.0, ..warm },
                SampleParams { top_k: 1, ..warm },
                SampleParams { top_k: 40, temperature: 2.0, ..warm },
                SampleParams { top_p: 0.7, temperature: 2.0, ..warm },
                SampleParams { top_p: 1e-6, ..warm },
                SampleParams { min_p: 0.2, temperature: 2.0, ..warm },
                SampleParams { top_k: 200, top_p: 0.9, min_p: 0.01, ..warm },
                SampleParams { repeat_penalty: 1.7, top_k: 30, ..warm },
                SampleParams { repeat_penalty: 1.7, ..GREEDY },
            ] {
                let seen: Vec<u32> = (seed..3000).step_by(7).collect();
                parity(&context, &logits, &sampling, &seen).await.unwrap();
            }
        }
    }

    fn draws(logits: &[f32], sampling: SampleParams, seen: &[u32]) -> Vec<u32> {
        (0..2000).map(|position| reference(logits, &sampling, seen, position)).collect()
    }

    fn share(draws: &[u32], id: u32) -> f64 {
        draws.iter().filter(|&&d| d == id).count() as f64 / draws.len() as f64
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert!(draws(&[0.0, 2.0, 2.0], GREEDY, &[]).iter().all(|&d| d == 1));
        assert!(draws(&[f32::NAN, -1.0], GREEDY, &[]).iter().all(|&d| d == 1));
        assert_eq!(reference(&[f32::NAN], &GREEDY, &[], 0), u32::MAX);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let draws = draws(&[0.0, 0.5, 0.0], SampleParams { temperature: 0.5, ..WARM }, &[]);
        let expected = 1f64.exp() / (2.0 + 1f64.exp());
        assert!((share(&draws, 1) - expected).abs() < 0.04, "{}", share(&draws, 1));
        let (first, last) = (share(&draws, 0), share(&draws, 2));
        assert!((first - last).abs() < 0.04, "{first} {last}");
    }

    #[test]
    fn each_filter_cuts_where_it_should() {
        let logits = [3.0f32.ln(), 2.0f32.ln(), 1.0f32.ln(), 0.0];
        let warm = SampleParams { temperature: 1.0, ..WARM };
        let kept = |sampling: SampleParams| {
            let mut ids = draws(&logits, sampling, &[]);
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(kept(warm), [0, 1, 2, 3]);
        assert_eq!(kept(SampleParams { top_k: 2, ..warm }), [0, 1]);
        // The third and the fourth are equals.
        assert_eq!(kept(SampleParams { top_k: 3, ..warm }), [0, 1, 2, 3]);
        assert_eq!(kept(SampleParams { top_p: 0.6, ..warm }), [0, 1]);
        assert_eq!(kept(SampleParams { min_p: 0.5, ..warm }), [0, 1]);
        assert_eq!(kept(SampleParams { top_p: 0.01, ..warm }), [0]);
    }

    #[test]
    fn the_penalty_counts_a_token_once() {
        let penal = SampleParams { repeat_penalty: 2.0, ..GREEDY };
        assert_eq!(reference(&[3.0, 2.0], &penal, &[0, 0, 0, 9], 4), 1);
        assert_eq!(reference(&[3.0, 1.4], &penal, &[0, 0, 0], 3), 0);
        assert_eq!(reference(&[-1.0, -1.5], &penal, &[0], 1), 1);
    }
}
