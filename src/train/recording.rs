//! The recordings of training: loss alone, and loss with gradients.

use crate::Result;
use crate::gpu::{Buffer, Context, Recording, Step};
use crate::kernels::cross_entropy::cross_entropy;
use crate::kernels::loss_sum::loss_sum;
use crate::kernels::matmul_transposed::matmul_transposed;
use crate::kernels::weight::Matrix;
use crate::kernels::weight_gradient::weight_gradient;
use crate::kernels::{Target, Tensor, Token};
use crate::model::{Adapter, GpuLlama, rope_table};
use crate::ops::{GpuLora, GpuOps, Linear, Ops, Tape, WeightGradients};

/// Bytes of logits that exist at once.
const LOGITS_BYTES: usize = 8 << 20;
/// Columns that nobody needs, so that the same column of neighbouring rows does not fall on the same
/// lines of a cache, as at a vocabulary that is a multiple of a power of two it does.
const LOGITS_PAD: usize = 16;

/// What changes from batch to batch, for up to `capacity` tokens.
#[derive(Debug)]
pub struct StepBuffers {
    /// Most tokens of a batch.
    pub capacity: usize,
    /// A uniform [`Step`].
    pub step: Buffer,
    /// [`Token`] (capacity)
    pub tokens: Buffer,
    /// [`Target`] (capacity)
    pub targets: Buffer,
    /// The batch's loss is added here, f32 (1).
    pub loss: Buffer,
    /// Each token's weighted loss, f32 (capacity).
    losses: Buffer,
    rope_table: Buffer,
}

impl StepBuffers {
    /// Buffers for batches of up to `capacity` tokens at positions below `positions`.
    pub fn new(
        context: &Context,
        model: &GpuLlama,
        capacity: usize,
        positions: usize,
    ) -> Result<Self> {
        let of = |label, bytes: usize| context.storage(label, (capacity * bytes) as u64);
        Ok(Self {
            capacity,
            step: context.uniform("step", size_of::<Step>() as u64)?,
            tokens: of("tokens", size_of::<Token>())?,
            targets: of("targets", size_of::<Target>())?,
            loss: context.storage("loss", 4)?,
            losses: of("losses", 4)?,
            rope_table: context
                .storage_from("rope table", &rope_table(&model.config, positions))?,
        })
    }

    /// Each token's weighted loss after a replay, f32 (capacity).
    pub fn token_losses(&self) -> &Buffer {
        &self.losses
    }

    /// Puts a batch in place.
    pub fn write(&self, context: &Context, tokens: &[Token], targets: &[Target], step: &Step) {
        context.write(&self.tokens, 0, bytemuck::cast_slice(tokens));
        context.write(&self.targets, 0, bytemuck::cast_slice(targets));
        context.write(&self.step, 0, bytemuck::bytes_of(step));
    }

    fn ops(&self, context: &Context) -> GpuOps {
        GpuOps::new(context, &self.step, &self.tokens, &self.rope_table, self.capacity, None)
    }

    /// Records the loss of `normed`'s predictions, a chunk of tokens at a time, and the gradient
    /// of `normed` if it is wanted; with it that of the head, if that is trained.
    fn loss_head(
        &self,
        ops: &mut GpuOps,
        head: &Linear<Matrix, Buffer>,
        normed: &Tensor,
        gradients: Option<&WeightGradients>,
    ) -> Result<Option<Tensor>> {
        let want_gradient = gradients.is_some();
        let of_head = gradients.and_then(|gradients| gradients.matrix(&head.weight));
        let vocab = head.weight.rows();
        let rows = (LOGITS_BYTES / (vocab * 4) / 32 * 32).clamp(32, self.capacity.max(32));
        let logits = ops.rows(rows, vocab + LOGITS_PAD)?;
        let gradient = if want_gradient { Some(ops.tensor(normed.cols())?) } else { None };
        for begin in (0..self.capacity).step_by(rows) {
            let chunk = logits.standing_for(begin);
            ops.linear_into(&normed.window(begin, rows), head, None, None, &chunk)?;
            let r = ops.recorder();
            cross_entropy(r, (&chunk, vocab), &self.targets, &self.losses, want_gradient)?;
            if let Some(gradient) = &gradient {
                matmul_transposed(r, &chunk, &head.weight, &gradient.window(begin, rows), false)?;
            }
            if let Some(of_head) = of_head {
                weight_gradient(r, &normed.window(begin, rows), &chunk, of_head)?;
            }
        }
        loss_sum(ops.recorder(), &self.losses, &self.loss)?;
        Ok(gradient)
    }
}

/// Replays the loss of a batch.
#[derive(Debug)]
pub struct LossRecording(Recording);

impl LossRecording {
    /// Records the forward of `model` with `adapter`, and the loss.
    pub fn new(
        context: &Context,
        model: &GpuLlama,
        adapter: Option<&Adapter<GpuLora>>,
        buffers: &StepBuffers,
    ) -> Result<Self> {
        let mut ops = buffers.ops(context);
        let hidden = model.hidden(&mut ops, adapter)?;
        let normed = ops.rms_norm(&hidden, &model.norm, model.config.rms_norm_eps)?;
        drop(hidden);
        buffers.loss_head(&mut ops, &model.head(), &normed, None)?;
        Ok(Self(ops.finish()))
    }

    /// The dispatches.
    pub fn recording(&self) -> &Recording {
        &self.0
    }
}

/// How a step is computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepOptions {
    /// Keeps only each block's input and computes the rest again in the backward.
    pub grad_checkpoint: bool,
    /// The probability of what an update gets of its layer's input to be 0.
    pub dropout: f32,
}

/// Replays loss and gradients of a batch.
#[derive(Debug)]
pub struct StepRecording(Recording);

impl StepRecording {
    /// Records forward and backward of `model` with `adapter`. The gradients are added to
    /// `gradients`, which is laid out as the adapter's parameters are, and to `weight_gradients`.
    pub fn new(
        context: &Context,
        model: &GpuLlama,
        adapter: &Adapter<GpuLora>,
        (gradients, weight_gradients): (&Buffer, &WeightGradients),
        buffers: &StepBuffers,
        StepOptions { grad_checkpoint, dropout }: StepOptions,
    ) -> Result<Self> {
        let tape = Tape::new(buffers.ops(context), gradients).training(weight_gradients.clone());
        let mut tape = tape.dropping(dropout);
        if grad_checkpoint {
            // A block's at a time, from its input.
            tape = tape.keep_all();
        }
        let mut inputs = Vec::new();
        let mut x = tape.embedding(&model.embed_tokens, None)?;
        for layer in 0..model.layers.len() {
            if grad_checkpoint {
                inputs.push(x.clone());
            }
            x = model.block(&mut tape, layer, x, Some(adapter))?;
            if grad_checkpoint {
                tape.forget();
            }
        }
        let normed = tape.rms_norm(&x, &model.norm, model.config.rms_norm_eps)?;
        let (head, wanted) = (model.head(), Some(weight_gradients));
        let d_normed = buffers.loss_head(tape.ops(), &head, normed.tensor(), wanted)?;
        let Some(d_normed) = d_normed else { return Ok(Self(tape.finish())) };
        // Without checkpoints this is the whole backward; with them it is the last norm's.
        let mut dx = tape.backward(&normed, d_normed, &x)?;
        drop((normed, x));
        for (layer, input) in inputs.into_iter().enumerate().rev() {
            let Some(dy) = dx else { break };
            let leaf = tape.leaf(&input);
            drop(input);
            let y = model.block(&mut tape, layer, leaf.clone(), Some(adapter))?;
            dx = tape.backward(&y, dy, &leaf)?;
        }
        if let (true, Some(dy)) = (grad_checkpoint, dx) {
            let x = tape.embedding(&model.embed_tokens, None)?;
            tape.backward(&x, dy, &x)?;
        }
        Ok(Self(tape.finish()))
    }

    /// The dispatches.
    pub fn recording(&self) -> &Recording {
        &self.0
    }
}
