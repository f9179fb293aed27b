//! Where the GPU's time goes: each dispatch in a pass of its own, between two timestamps.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::Context;
use super::buffer::Buffer;
use super::recording::Dispatch;
use crate::{Error, Result};

/// Most dispatches of one query set: WebGPU allows 4096 queries.
const MOST: usize = 2048;
/// Bytes of a timestamp.
const STAMP: u64 = 8;

/// What dispatches of one kernel took on the GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// The kernel.
    pub kernel: &'static str,
    /// Workgroups of each of the dispatches.
    pub workgroups: u32,
    /// How many dispatches.
    pub dispatches: usize,
    /// What they took together.
    pub seconds: f64,
}

/// Timestamps that were asked for and not read yet.
#[derive(Debug, Default)]
pub(super) struct Profile(RefCell<Vec<Stamps>>);

#[derive(Debug)]
struct Stamps {
    /// Kernel and workgroups of each dispatch.
    dispatches: Vec<(&'static str, u32)>,
    /// Two ticks a dispatch.
    ticks: Buffer,
}

impl Profile {
    /// Adds `dispatches`, whose grids come with them, to `encoder`.
    pub(super) fn encode(
        &self,
        context: &Context,
        encoder: &mut wgpu::CommandEncoder,
        dispatches: &[(&Dispatch, [u32; 3])],
    ) -> Result<()> {
        for some in dispatches.chunks(MOST) {
            let count = 2 * some.len() as u32;
            let queries = context.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            for (first, (dispatch, grid)) in (0..count).step_by(2).zip(some) {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: Some(dispatch.name),
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(first),
                        end_of_pass_write_index: Some(first + 1),
                    }),
                });
                dispatch.encode(context.device(), &mut pass, *grid);
            }
            let ticks = context.query_results(u64::from(count) * STAMP)?;
            encoder.resolve_query_set(&queries, 0..count, &ticks, 0);
            let dispatches = some.iter().map(|(d, [x, y, z])| (d.name, x * y * z)).collect();
            self.0.borrow_mut().push(Stamps { dispatches, ticks });
        }
        Ok(())
    }
}

impl Context {
    /// What was dispatched since the last call, the longest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the context was opened without
    /// [`ContextOptions::profile`](super::ContextOptions::profile).
    pub async fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        let Some(profile) = self.profile() else {
            return Err(Error::invalid("the device was opened without timestamps"));
        };
        let stamps = std::mem::take(&mut *profile.0.borrow_mut());
        let second = 1e-9 * f64::from(self.queue().get_timestamp_period());
        let mut sums: BTreeMap<(&str, u32), KernelTime> = BTreeMap::new();
        for Stamps { dispatches, ticks } in stamps {
            let ticks: Vec<[u64; 2]> = self.read(&ticks, 0, dispatches.len()).await?;
            for ((kernel, workgroups), [begin, end]) in dispatches.into_iter().zip(ticks) {
                let sum = sums.entry((kernel, workgroups)).or_insert(KernelTime {
                    kernel,
                    workgroups,
                    dispatches: 0,
                    seconds: 0.0,
                });
                sum.dispatches += 1;
                sum.seconds += end.saturating_sub(begin) as f64 * second;
            }
        }
        let mut times: Vec<KernelTime> = sums.into_values().collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use crate::gpu::{Context, ContextOptions};
    use crate::kernels::{Tensor, check, silu_mul};
    use crate::testing::async_test;

    #[async_test]
    async fn each_kernel_is_named_with_its_time() {
        let options = ContextOptions { profile: true, ..Default::default() };
        let context = Context::new(&options).await.unwrap();
        let x = check::noise(1, 100_000);
        let tensor = || Tensor::from(&context, 1000, &x).unwrap();
        let (gate, up, y) = (tensor(), tensor(), tensor());
        check::run(&context, 100, |r| {
            silu_mul::silu_mul(r, &gate, &up, &y)?;
            silu_mul::silu_mul(r, &gate, &up, &y)
        })
        .unwrap();
        let times = context.kernel_times().await.unwrap();
        let [time] = &times[..] else { panic!("{times:?}") };
        assert_eq!((time.kernel, time.dispatches), ("silu_mul", 2));
        assert!(time.workgroups > 0 && (0.0..60.0).contains(&time.seconds), "{time:?}");
        assert_eq!(context.kernel_times().await.unwrap(), []);
        let plain = Context::new(&ContextOptions::default()).await.unwrap();
        assert!(plain.kernel_times().await.is_err());
    }
}
