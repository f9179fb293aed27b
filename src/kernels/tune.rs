//! Finds the fastest [`Variants`] of a device by running them.

use super::matmul::matmul;
use super::matmul_transposed::matmul_transposed;
use super::matvec::{Extras, matvec};
use super::weight::{Format, Matrix};
use super::{Tensor, check};
use crate::Result;
use crate::gpu::{Context, Recorder, Recording, Step, Variant, Variants};

/// The shape that is tried: some rows by columns, tokens where there are several.
const SHAPE: (usize, usize) = (768, 576);
const TOKENS: usize = 32;
/// Runs that count; the shortest does.
const RUNS: usize = 2;
/// Replays of a run on a device that does a single one in less than so many seconds.
const REPLAYS: usize = 32;
const FAST_SECONDS: f64 = 5e-3;

/// Tries every variant that the device has of every product; `clock` gives seconds from any fixed
/// start. The first run of each, which compiles it, does not count.
///
/// The variants differ in the order of their sums and in nothing else, so that results stay within
/// the kernels' tolerance whichever is taken. Those of the context are as before.
pub async fn tune(context: &Context, clock: &dyn Fn() -> f64) -> Result<Variants> {
    let before = context.variants();
    let found = fastest(context, clock, before).await;
    context.set_variants(before)?;
    found
}

async fn fastest(
    context: &Context,
    clock: &dyn Fn() -> f64,
    mut best: Variants,
) -> Result<Variants> {
    let (rows, cols) = SHAPE;
    let weight = Matrix::from_f32(context, Format::Q4, cols, &check::noise(1, rows * cols))?;
    let x = Tensor::from(context, cols, &check::noise(2, TOKENS * cols))?;
    let y = Tensor::new(context, TOKENS, rows)?;
    let one_y = Tensor::new(context, 1, rows)?;
    let step = context.uniform("step", size_of::<Step>() as u64)?;
    let count = Step { tokens: TOKENS as u32, ..Default::default() };
    context.write(&step, 0, bytemuck::bytes_of(&count));

    let mut shortest = [f64::INFINITY; 3];
    for variant in Variant::ALL {
        if !context.has_variant(variant) {
            continue;
        }
        context.set_variants(Variants::all(variant))?;
        let record = |one: &dyn Fn(&mut Recorder) -> Result<()>| {
            let mut r = Recorder::new(context, &step);
            one(&mut r)?;
            Ok::<_, crate::Error>(r.finish())
        };
        let recordings = [
            record(&|r| matmul(r, &x, &weight, None, None, &y))?,
            record(&|r| matmul_transposed(r, &y, &weight, &x, false))?,
            record(&|r| matvec(r, &x, &weight, Extras::default(), &one_y))?,
        ];
        let places = [&mut best.matmul, &mut best.matmul_transposed, &mut best.matvec];
        for ((recording, place), shortest) in recordings.iter().zip(places).zip(&mut shortest) {
            // The first compiles it.
            time(context, clock, recording, 1).await?;
            let alone = time(context, clock, recording, 1).await?;
            let replays = if alone < FAST_SECONDS { REPLAYS } else { 1 };
            let mut seconds = f64::INFINITY;
            for _ in 0..RUNS {
                seconds = seconds.min(time(context, clock, recording, replays).await?);
            }
            let seconds = seconds / replays as f64;
            tracing::debug!("{variant:?}: {:.2} ms", seconds * 1e3);
            if seconds < *shortest {
                (*place, *shortest) = (variant, seconds);
            }
        }
    }
    Ok(best)
}

/// Seconds until `replays` of a recording are done.
async fn time(
    context: &Context,
    clock: &dyn Fn() -> f64,
    recording: &Recording,
    replays: usize,
) -> Result<f64> {
    let began = clock();
    recording.submit(TOKENS as u32, replays)?;
    context.settle().await?;
    Ok(clock() - began)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn the_shortest_is_taken_and_the_context_stays_as_it_was() {
        let context = check::test_context().await;
        let before = context.variants();
        // What the first variant takes is twice as long by this clock.
        let (now, looks) = (Cell::new(0.0), Cell::new(0));
        let clock = || {
            looks.set(looks.get() + 1);
            let slow = looks.get() <= 3 * 2 * (RUNS + 2);
            now.set(now.get() + if slow { 2.0 } else { 1.0 });
            now.get()
        };
        let found = tune(&context, &clock).await.unwrap();
        assert_eq!(found, Variants::all(Variant::Loads));
        assert_eq!(context.variants(), before);
    }

    #[async_test]
    async fn a_variant_that_the_device_lacks_is_refused() {
        let options = crate::gpu::ContextOptions { without_subgroups: true, ..Default::default() };
        let context = Context::new(&options).await.unwrap();
        assert!(context.set_variants(Variants::all(Variant::Broadcast)).is_err());
        context.set_variants(Variants::all(Variant::Tile)).unwrap();
        let json = serde_json::to_string(&context.variants()).unwrap();
        assert_eq!(json, r#"{"matmul":"tile","matmul_transposed":"tile","matvec":"tile"}"#);
        assert_eq!(serde_json::from_str::<Variants>(&json).unwrap(), context.variants());
    }
}
