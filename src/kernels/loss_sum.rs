//! Adds up the tokens' losses.

use super::{ONE, check};
use crate::Result;
use crate::gpu::Access::{Read, Write};
use crate::gpu::{Buffer, Context, Kernel, Recorder};

const KERNEL: Kernel = Kernel {
    name: "loss_sum",
    source: &[include_str!("step.wgsl"), include_str!("loss_sum.wgsl")],
    storage: &[Read, Write],
};

/// Records `total[0] += Σ losses[t]` over the replay's tokens; both f32.
pub fn loss_sum(r: &mut Recorder, losses: &Buffer, total: &Buffer) -> Result<()> {
    r.dispatch(&KERNEL, &[], &[0u32; 4], &[losses.into(), total.into()], [ONE; 3])
}

/// Compares with the sum of the first `tokens` of more values.
pub async fn parity(context: &Context, tokens: usize) -> Result<()> {
    let losses = check::noise(1, tokens + 3);
    let (gpu, total) =
        (context.storage_from("losses", &losses)?, context.storage_from("total", &[2f32])?);
    check::run(context, tokens, |r| loss_sum(r, &gpu, &total))?;
    let expected = 2.0 + losses[..tokens].iter().map(|&l| f64::from(l)).sum::<f64>();
    let actual = context.read(&total, 0, 1).await?;
    check::close("loss_sum", &actual, &[expected as f32], 1e-5, 1e-5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::async_test;

    #[async_test]
    async fn matches_the_sum() {
        let context = check::test_context().await;
        for tokens in [1, 63, 64, 1000] {
            parity(&context, tokens).await.unwrap();
        }
    }
}
