//! GPU time by kernel, on a device that was opened to measure it.

use super::Bench;
use crate::Result;
use crate::gpu::KernelTime;

/// Where the time of some work went.
#[derive(Debug, Clone, PartialEq)]
pub struct Profiled {
    /// The work.
    pub name: &'static str,
    /// The kernels, the longest first.
    pub kernels: Vec<KernelTime>,
}

impl Bench<'_> {
    /// GPU time by kernel of one decoded token after 128, of a prompt of 128, and of a training step
    /// of the original experiment.
    ///
    /// # Errors
    /// A device without timestamps; see [`ContextOptions::profile`](crate::gpu::ContextOptions).
    pub async fn kernels(&self) -> Result<Vec<Profiled>> {
        let context = &self.engine.model().gpu()?.context;
        let mut decoder = self.engine.decoder(None)?;
        let mut found = Vec::new();
        for salt in 0..2 {
            // Once for nothing.
            found.clear();
            let ids = self.text(128, salt, 2)?;
            decoder.truncate(0);
            context.kernel_times().await?;
            decoder.prefill(&ids)?;
            decoder.pick().await?;
            let prompt = context.kernel_times().await?;
            found.push(Profiled { name: "a prompt of 128 tokens", kernels: prompt });
            decoder.advance(ids[0])?;
            decoder.pick().await?;
            let token = context.kernel_times().await?;
            found.push(Profiled { name: "a token after 128", kernels: token });
        }
        drop(decoder);
        let mut steps = self.experiment(2, None)?;
        for _ in 0..2 {
            context.kernel_times().await?;
            steps.advance().await?;
            (self.proceed)("kernels")?;
        }
        let step = context.kernel_times().await?;
        found.push(Profiled { name: "a training step", kernels: step });
        Ok(found)
    }
}
