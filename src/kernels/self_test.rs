//! A self-test of the device: every kernel on small made-up inputs against its CPU reference, so
//! that a driver that computes wrongly is reported instead of producing nonsense.
//!
//! [`quick`] takes the kernels of generation, one shape each; [`thorough`] takes all kernels, in
//! shapes that leave workgroups, tiles and blocks partly filled.

use std::pin::Pin;

use super::adafactor::Adafactor;
use super::attention::AttentionShape;
use super::kv::KvType;
use super::muon::Muon;
use super::sgd::Sgd;
use super::weight::Format;
use super::{
    adafactor, adam, add, append, attention, attention_step, check, dora, dropout, embedding,
    embedding_gradient, fuse, gate, last_row, lora, lora_embedding, matmul, matmul_transposed,
    matvec, muon, rms_norm, rope, sample, sgd, silu_mul, vector_gradient, weight_gradient,
};
use crate::gpu::Context;
use crate::{Error, Result};

/// One comparison of a kernel with its reference.
pub struct Check {
    /// The kernel, and the weight format where it has one.
    pub name: String,
    compare: Box<dyn Compare>,
}

impl Check {
    /// A check of the caller's.
    pub fn new(
        name: impl Into<String>,
        compare: impl AsyncFn(&Context) -> Result<()> + 'static,
    ) -> Self {
        Self { name: name.into(), compare: Box::new(compare) }
    }
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

/// What came of a [`Check`].
#[derive(Debug)]
pub struct Outcome {
    /// [`Check::name`].
    pub name: String,
    /// What is wrong, if anything.
    pub result: Result<()>,
    /// How long it took by the caller's clock, compiling the kernel included.
    pub seconds: f64,
}

/// Runs `checks` one after another; `clock` gives seconds from any fixed start, `on_outcome` gets
/// each outcome as it comes.
///
/// # Errors
/// [`Error::DeviceLost`], after which no check could tell anything. A failed check is an
/// [`Outcome`], not an error.
pub async fn run(
    context: &Context,
    checks: &[Check],
    clock: &dyn Fn() -> f64,
    on_outcome: &mut dyn FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(checks.len());
    for check in checks {
        let start = clock();
        let result = check.compare.compare(context).await;
        if let Err(lost @ Error::DeviceLost(_)) = result {
            return Err(lost);
        }
        let outcome = Outcome { name: check.name.clone(), result, seconds: clock() - start };
        on_outcome(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// The kernels of generation in all weight formats, small enough for the first load on a device.
pub fn quick() -> Vec<Check> {
    let mut checks = vec![
        Check::new("rms_norm", async |c| rms_norm::parity(c, 2, 65).await),
        Check::new("rope", async |c| rope::parity(c, 3, 3, 16).await),
        Check::new("append", async |c| append::parity(c, 2, 68, KvType::F16).await),
        Check::new("attention", async |c| attention::parity(c, &[3, 7], HEADS).await),
        Check::new("attention_step", async |c| {
            attention_step::parity(c, (0, 7), HEADS, 3, KvType::F16).await
        }),
        Check::new("silu_mul", async |c| silu_mul::parity(c, 2, 65).await),
        Check::new("gate", async |c| gate::parity(c, 65, 3).await),
        Check::new("add", async |c| add::parity(c, 2, 65).await),
        Check::new("last_row", async |c| last_row::parity(c, 2, 65).await),
        Check::new("sample", async |c| sampled(c, 1000).await),
        Check::new("lora", async |c| lora::parity(c, 2, (33, 65), 3).await),
    ];
    for format in Format::ALL {
        checks.extend([
            named("embedding", format, async move |c| embedding::parity(c, format, 5, 45).await),
            named("matvec", format, async move |c| matvec::parity(c, format, (9, 45), 3).await),
            named("matmul", format, async move |c| matmul::parity(c, format, 3, (9, 45)).await),
        ]);
    }
    checks
}

/// The most likely of `n` tokens, and a draw among some of them.
async fn sampled(context: &Context, n: usize) -> Result<()> {
    let logits: Vec<f32> = check::noise(1, n).iter().map(|v| v * 8.0).collect();
    sample::parity(context, &logits, &sample::GREEDY, &[]).await?;
    let warm = sample::SampleParams {
        temperature: 0.9,
        top_k: 50,
        top_p: 0.9,
        min_p: 0.01,
        repeat_penalty: 1.1,
        ..sample::GREEDY
    };
    sample::parity(context, &logits, &warm, &[0, 3]).await
}

/// Every kernel, in every weight format, in several shapes.
pub fn thorough() -> Vec<Check> {
    let rows = [(1, 1), (3, 63), (5, 64), (2, 577)];
    let mut checks = vec![
        Check::new("rms_norm", async move |c| {
            each(rows, async |(tokens, cols)| rms_norm::parity(c, tokens, cols).await).await
        }),
        Check::new("rope", async |c| {
            let shapes = [(1, 1, 2), (5, 3, 64), (13, 2, 80), (3, 5, 6)];
            each(shapes, async |(tokens, heads, dim)| rope::parity(c, tokens, heads, dim).await)
                .await
        }),
        Check::new("append", async move |c| {
            let shapes = [(1, 4, KvType::F32), (3, 64, KvType::F16), (2, 576, KvType::F32)];
            each(shapes, async |(tokens, cols, kv)| append::parity(c, tokens, cols, kv).await).await
        }),
        Check::new("attention", async |c| {
            let shape = |heads, kv_heads, head_dim| AttentionShape { heads, kv_heads, head_dim };
            attention::parity(c, &[1], shape(1, 1, 8)).await?;
            attention::parity(c, &[3, 1, 7], shape(9, 3, 64)).await?;
            attention::parity(c, &[65, 2], shape(2, 1, 24)).await?;
            attention::parity(c, &[66], shape(2, 2, 256)).await
        }),
        Check::new("attention_step", async |c| {
            let shape = |heads, kv_heads, head_dim| AttentionShape { heads, kv_heads, head_dim };
            attention_step::parity(c, (0, 0), shape(1, 1, 8), 0, KvType::F32).await?;
            attention_step::parity(c, (3, 70), shape(9, 3, 64), 8, KvType::F16).await?;
            attention_step::parity(c, (0, 64), shape(2, 1, 24), 3, KvType::F32).await?;
            attention_step::parity(c, (0, 63), shape(2, 2, 256), 19, KvType::F16).await
        }),
        Check::new("gate", async |c| {
            each([(1, 1), (65, 3), (600, 19)], async |(cols, rank)| {
                gate::parity(c, cols, rank).await
            })
            .await
        }),
        Check::new("silu_mul", async move |c| {
            each(rows, async |(tokens, cols)| silu_mul::parity(c, tokens, cols).await).await
        }),
        Check::new("add", async move |c| {
            each(rows, async |(tokens, cols)| add::parity(c, tokens, cols).await).await
        }),
        Check::new("last_row", async move |c| {
            each(rows, async |(tokens, cols)| last_row::parity(c, tokens, cols).await).await
        }),
        Check::new("sample", async |c| {
            each([1, 255, 257, 49152], async |n| sampled(c, n).await).await
        }),
        Check::new("lora", async |c| {
            let shapes = [(1, (1, 1), 1), (3, (65, 33), 5), (33, (100, 70), 19)];
            each(shapes, async |(tokens, shape, rank)| lora::parity(c, tokens, shape, rank).await)
                .await
        }),
        Check::new("weight_gradient", async |c| {
            let shapes = [(1, (1, 1)), (3, (9, 45)), (33, (65, 100)), (70, (40, 576))];
            each(shapes, async |(tokens, shape)| weight_gradient::parity(c, tokens, shape).await)
                .await
        }),
        Check::new("fuse", async |c| {
            let shapes = [((1, 1), 1), ((9, 45), 3), ((65, 100), 8)];
            each(shapes, async |(shape, rank)| fuse::parity(c, shape, rank).await).await
        }),
        Check::new("dora", async |c| {
            let shapes = [(1, (1, 1), 1), (3, (9, 45), 3), (10, (70, 100), 8)];
            each(shapes, async |(tokens, shape, rank)| {
                dora::parity(c, Format::Q4, tokens, shape, rank).await
            })
            .await
        }),
        Check::new("dropout", async move |c| {
            each(rows, async |(tokens, cols)| dropout::parity(c, tokens, cols, 0.3).await).await
        }),
        Check::new("vector_gradient", async move |c| {
            each(rows, async |(tokens, cols)| vector_gradient::parity(c, tokens, cols).await).await
        }),
        Check::new("lora_embedding", async |c| lora_embedding::parity(c, 5, 45, 3).await),
        Check::new("embedding_gradient", async |c| {
            each([(1, 1), (5, 45), (64, 576)], async |(vocab, cols)| {
                embedding_gradient::parity(c, vocab, cols).await
            })
            .await
        }),
        Check::new("adam", async |c| adam::parity(c, 0.1).await),
        Check::new("sgd", async |c| {
            sgd::parity(c, Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.1 }).await
        }),
        Check::new("adafactor", async |c| adafactor::parity(c, Adafactor::default()).await),
        Check::new("muon", async |c| {
            let muon = Muon { momentum: 0.95, nesterov: true, weight_decay: 0.01, ns_steps: 5 };
            muon::parity(c, muon).await
        }),
    ];
    let matrices = [(1, 32), (9, 45), (65, 100), (40, 576)];
    for format in Format::ALL {
        checks.extend([
            named("embedding", format, async move |c| {
                each([(3, 32), (5, 45), (64, 576)], async |(vocab, cols)| {
                    embedding::parity(c, format, vocab, cols).await
                })
                .await
            }),
            named("matvec", format, async move |c| {
                each(matrices, async |shape| matvec::parity(c, format, shape, 9).await).await
            }),
            named("matmul", format, async move |c| {
                each(matrices, async |shape| matmul::parity(c, format, 33, shape).await).await
            }),
            named("matmul_transposed", format, async move |c| {
                each(matrices, async |shape| matmul_transposed::parity(c, format, 33, shape).await)
                    .await
            }),
        ]);
    }
    checks
}

const HEADS: AttentionShape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 64 };

fn named(
    kernel: &str,
    format: Format,
    compare: impl AsyncFn(&Context) -> Result<()> + 'static,
) -> Check {
    Check::new(format!("{kernel} {format:?}").to_lowercase(), compare)
}

/// Runs `parity` on each shape; an error names the shape.
async fn each<S: std::fmt::Debug + Copy>(
    shapes: impl IntoIterator<Item = S>,
    parity: impl AsyncFn(S) -> Result<()>,
) -> Result<()> {
    for shape in shapes {
        match parity(shape).await {
            Err(Error::Gpu(problem)) => {
                return Err(Error::Gpu(format!("{problem}, in the shape {shape:?}")));
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// An async function of unknown type, to be called through a pointer.
trait Compare {
    fn compare<'a>(
        &'a self,
        context: &'a Context,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;
}

impl<F: AsyncFn(&Context) -> Result<()>> Compare for F {
    fn compare<'a>(
        &'a self,
        context: &'a Context,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>> {
        Box::pin(self(context))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::testing::async_test;

    async fn outcomes(checks: &[Check]) -> Vec<Outcome> {
        let context = check::test_context().await;
        let ticks = std::cell::Cell::new(0.0);
        let clock = || ticks.replace(ticks.get() + 0.5);
        run(&context, checks, &clock, &mut |_| ()).await.unwrap()
    }

    #[async_test]
    async fn every_kernel_passes_here() {
        for checks in [quick(), thorough()] {
            let outcomes = outcomes(&checks).await;
            let names: HashSet<&str> = outcomes.iter().map(|o| o.name.as_str()).collect();
            assert_eq!(names.len(), checks.len(), "two checks of one name");
            for Outcome { name, result, seconds } in &outcomes {
                assert!(result.is_ok(), "{name}: {result:?}");
                assert_eq!(*seconds, 0.5);
            }
        }
    }

    #[async_test]
    async fn a_kernel_that_computes_wrongly_is_noticed_and_the_others_still_run() {
        // The kernel normalises with another epsilon than the reference it is compared with.
        let wrong = Check::new("wrong", async |context| {
            let x = check::noise(1, 9);
            let x_gpu = super::super::Tensor::from(context, 9, &x)?;
            let y = super::super::Tensor::new(context, 1, 9)?;
            let weight = context.storage_from("weight", &[1f32; 9])?;
            check::run(context, 1, |r| rms_norm::rms_norm(r, &x_gpu, &weight, 0.5, &y))?;
            let actual = context.read(y.buffer(), 0, 9).await?;
            check::close("y", &actual, &rms_norm::reference(&x, &[1.0; 9], 1e-5), 1e-6, 1e-5)
        });
        let right = Check::new("right", async |c| add::parity(c, 1, 1).await);
        let outcomes = outcomes(&[wrong, right]).await;
        assert_eq!(outcomes[0].name, "wrong");
        let error = outcomes[0].result.as_ref().unwrap_err().to_string();
        assert!(error.contains("9 of 9 values are wrong"), "{error}");
        assert!(outcomes[1].result.is_ok());
    }

    #[async_test]
    async fn a_failing_shape_is_named() {
        let one = async |n| if n == 2 { Err(Error::Gpu("bad".into())) } else { Ok(()) };
        let error = each([1, 2, 3], one).await.unwrap_err();
        assert_eq!(error.to_string(), "GPU: bad, in the shape 2");
    }
}
