//! Running one kernel on made-up input and comparing it with its reference: what the tests and the
//! self-test of a new adapter share.

use crate::gpu::{Context, Recorder, Step};
use crate::{Error, Result};

/// `count` values in (−1, 1), the same for the same `seed` everywhere.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        // The 64-bit LCG of Knuth's MMIX; its top 24 bits are good enough for test input.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 + 0.5) / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Records with `record` and replays once over `tokens` tokens.
pub fn run(
    context: &Context,
    tokens: usize,
    record: impl FnOnce(&mut Recorder) -> Result<()>,
) -> Result<()> {
    let step = Step { tokens: tokens as u32, ..Default::default() };
    run_step(context, step, record)
}

/// [`run`] with a [`Step`] of the caller's.
pub fn run_step(
    context: &Context,
    step: Step,
    record: impl FnOnce(&mut Recorder) -> Result<()>,
) -> Result<()> {
    let uniform = context.uniform("step", size_of::<Step>() as u64)?;
    context.write(&uniform, 0, bytemuck::bytes_of(&step));
    let mut recorder = Recorder::new(context, &uniform);
    record(&mut recorder)?;
    recorder.finish().submit(step.tokens, 1)
}

/// An error unless every `|actual − expected| ≤ atol + rtol · |expected|`; it names how many are
/// off and the worst.
pub fn close(what: &str, actual: &[f32], expected: &[f32], atol: f32, rtol: f32) -> Result<()> {
    if actual.len() != expected.len() {
        let (a, e) = (actual.len(), expected.len());
        return Err(Error::Gpu(format!("{what}: {a} values instead of {e}")));
    }
    // How many times over its tolerance each value is; NaN counts as infinitely far.
    let excess = |(&a, &e): (&f32, &f32)| {
        if a == e {
            return 0.0;
        }
        let excess = (a - e).abs() / (atol + rtol * e.abs());
        if excess.is_nan() { f32::INFINITY } else { excess }
    };
    let off = actual.iter().zip(expected).map(excess).filter(|&e| e > 1.0).count();
    let worst =
        actual.iter().zip(expected).map(excess).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    match worst {
        Some((i, excess)) if off > 0 => Err(Error::Gpu(format!(
            "{what}: {off} of {} values are wrong; the worst, {i}, is {} instead of {} \
             ({excess:.1} times its tolerance)",
            actual.len(),
            actual[i],
            expected[i]
        ))),
        _ => Ok(()),
    }
}

/// The best adapter of the machine; a machine without one fails the tests.
#[cfg(test)]
pub async fn test_context() -> Context {
    Context::new(&Default::default()).await.expect("the tests need an adapter")
}

/// [`test_context`], and the same adapter without subgroups for each variant that needs none.
#[cfg(test)]
pub async fn test_contexts() -> [Context; 3] {
    use crate::gpu::{ContextOptions, Variant, Variants};
    let of = async |variant| {
        let options = ContextOptions { without_subgroups: true, ..Default::default() };
        let context = Context::new(&options).await.expect("the tests need an adapter");
        context.set_variants(Variants::all(variant)).expect("needs no subgroups");
        context
    };
    [test_context().await, of(Variant::Tile).await, of(Variant::Loads).await]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn close_names_the_worst() {
        assert!(close("k", &[1.0, 2.0], &[1.0, 2.0], 0.0, 1e-6).is_ok());
        let error = close("k", &[1.0, 2.1, 3.0], &[1.0, 2.0, 3.0], 0.0, 1e-2).unwrap_err();
        assert!(error.to_string().contains("1 of 3") && error.to_string().contains("worst, 1,"));
        assert!(close("k", &[f32::NAN], &[1.0], 1.0, 1.0).is_err());
        assert!(close("k", &[1.0], &[1.0, 1.0], 1.0, 1.0).is_err());
    }
}
