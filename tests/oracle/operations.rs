//! Every operation in the middle of a graph: forward within 1e-5, gradients of its inputs within
//! 1e-4, at small and odd shapes, over packed sequences.

use std::rc::Rc;

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};
use engram::Result;
use engram::burn::{BurnOps, Device, LinearUpdate, LoraModule, Packed};
use engram::data::token::{Target, Token};
use engram::gpu::{Buffer, Context, Recorder, Step};
use engram::kernels::attention::AttentionShape;
use engram::kernels::cross_entropy::cross_entropy;
use engram::kernels::weight::{Format, Matrix};
use engram::kernels::{self, matmul_transposed::matmul_transposed};
use engram::ops::{GpuLora, GpuOps, Linear, Lora, Ops, Parameter, Tape, Tracked};

use crate::common::*;

const FORWARD: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
/// Lengths of the packed sequences.
const LENGTHS: [u32; 3] = [1, 7, 13];
const TOKENS: usize = 21;
const VOCAB: usize = 29;
const HEAD_DIM: usize = 24;

/// An operation with what it needs.
#[derive(Debug, Clone, Copy)]
enum Operation {
    RmsNorm {
        features: usize,
    },
    Linear {
        ins: usize,
        outs: usize,
        rank: Option<usize>,
        bias: bool,
    },
    /// The input is the residual.
    Residual {
        features: usize,
    },
    Rope {
        heads: usize,
    },
    /// The input is the query, key or value.
    Attention {
        heads: usize,
        kv_heads: usize,
        input: usize,
    },
    /// The input is the gate or the other.
    SiluMul {
        features: usize,
        input: usize,
    },
}

/// Makes an implementation's own of an array.
trait Place<O: Ops> {
    fn matrix(&self, rows: usize, cols: usize, values: &[f32]) -> O::Matrix;
    fn vector(&self, values: &[f32]) -> O::Vector;
    fn update(&self, lora: Lora<Vec<f32>>) -> O::Update;
}

impl Operation {
    /// Features of the differentiated input.
    fn ins(self) -> usize {
        match self {
            Self::RmsNorm { features } | Self::Residual { features } => features,
            Self::Linear { ins, .. } => ins,
            Self::Rope { heads } => heads * HEAD_DIM,
            Self::Attention { heads, input: 0, .. } => heads * HEAD_DIM,
            Self::Attention { kv_heads, .. } => kv_heads * HEAD_DIM,
            Self::SiluMul { features, .. } => features,
        }
    }

    /// The operation on `x`; its other inputs are constants.
    fn apply<O: Ops>(self, ops: &mut O, place: &impl Place<O>, x: O::Tensor) -> Result<O::Tensor> {
        let constant = |ops: &mut O, name: &str, features| {
            let table = hash_values(name, VOCAB * features, 1.0);
            ops.embedding(&place.matrix(VOCAB, features, &table), None)
        };
        match self {
            Self::RmsNorm { features } => {
                let weight = place.vector(&hash_values("norm", features, 1.5));
                ops.rms_norm(&x, &weight, 1e-5)
            }
            Self::Linear { ins, outs, rank, bias } => {
                let weight = place.matrix(outs, ins, &hash_values("w", outs * ins, 0.4));
                let bias = bias.then(|| place.vector(&hash_values("bias", outs, 1.0)));
                let update = rank.map(|rank| place.update(lora("op", ins, outs, rank)));
                ops.linear(&x, &Linear { weight, bias }, update.as_ref(), None)
            }
            Self::Residual { features } => {
                let other = constant(ops, "other", features)?;
                let weight =
                    place.matrix(features, features, &hash_values("w", features * features, 0.4));
                ops.linear(&other, &Linear { weight, bias: None }, None, Some(&x))
            }
            Self::Rope { .. } => ops.rope(x, HEAD_DIM),
            Self::Attention { heads, kv_heads, input } => {
                let shape = AttentionShape { heads, kv_heads, head_dim: HEAD_DIM };
                let sides = [heads, kv_heads, kv_heads].map(|heads| heads * HEAD_DIM);
                let mut qkv = Vec::new();
                for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
                    qkv.push(match i == input {
                        true => x.clone(),
                        false => constant(ops, name, sides[i])?,
                    });
                }
                ops.attention(0, &qkv[0], &qkv[1], &qkv[2], shape)
            }
            Self::SiluMul { features, input } => {
                let other = constant(ops, "other", features)?;
                match input {
                    0 => ops.silu_mul(&x, &other),
                    _ => ops.silu_mul(&other, &x),
                }
            }
        }
    }

    /// What is differentiated: it comes out of an adapted layer, as on the real tape.
    fn input<O: Ops>(self, ops: &mut O, place: &impl Place<O>) -> Result<O::Tensor> {
        let features = self.ins();
        let table = hash_values("table", VOCAB * features, 2.0);
        let x = ops.embedding(&place.matrix(VOCAB, features, &table), None)?;
        let weight = place.matrix(features, features, &hash_values("in", features * features, 0.3));
        let update = place.update(lora("in", features, features, 2));
        ops.linear(&x, &Linear { weight, bias: None }, Some(&update), None)
    }
}

fn lora(name: &str, ins: usize, outs: usize, rank: usize) -> Lora<Vec<f32>> {
    let a = hash_values(&format!("{name}.a"), ins * rank, 0.5);
    let b = hash_values(&format!("{name}.b"), rank * outs, 0.5);
    Lora { a, b, rank, scale: 1.5, magnitude: None }
}

fn tokens() -> Vec<Token> {
    let mut tokens = Vec::new();
    for length in LENGTHS {
        let first_key = tokens.len() as u32;
        for position in 0..length {
            let id = (tokens.len() as u32 * 7 + 3) % VOCAB as u32;
            tokens.push(Token { id, position, first_key, last_key: first_key + position });
        }
    }
    assert_eq!(tokens.len(), TOKENS);
    tokens
}

/// `[positions][head_dim / 2][cos, sin]`.
fn table() -> Vec<f32> {
    let angle = |(position, i): (u32, u32)| (f64::from(position) / 10f64.powi(i as i32)).sin_cos();
    let places = (0..13).flat_map(|p| (0..HEAD_DIM as u32 / 2).map(move |i| (p, i)));
    places.map(angle).flat_map(|(sin, cos)| [cos as f32, sin as f32]).collect()
}

struct OnGpu {
    context: Context,
    parameters: Buffer,
}

impl OnGpu {
    fn parameter(&self, values: &[f32]) -> Parameter {
        let buffer = self.context.storage_from("parameter", values).unwrap();
        Parameter { buffer, offset: 0 }
    }
}

impl Place<Tape> for OnGpu {
    fn matrix(&self, _: usize, cols: usize, values: &[f32]) -> Matrix {
        Matrix::from_f32(&self.context, Format::F32, cols, values).unwrap()
    }
    fn vector(&self, values: &[f32]) -> Buffer {
        self.context.storage_from("vector", values).unwrap()
    }
    fn update(&self, lora: Lora<Vec<f32>>) -> GpuLora {
        let (a, b) = (self.parameter(&lora.a), self.parameter(&lora.b));
        Lora { a, b, rank: lora.rank, scale: lora.scale, magnitude: None }
    }
}

struct OnBurn(Device);

impl OnBurn {
    fn tensor<const D: usize>(&self, values: &[f32], shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), self.0.burn())
    }
}

impl Place<BurnOps<'_>> for OnBurn {
    fn matrix(&self, rows: usize, cols: usize, values: &[f32]) -> Tensor<2> {
        self.tensor(values, [rows, cols])
    }
    fn vector(&self, values: &[f32]) -> Tensor<1> {
        self.tensor(values, [values.len()])
    }
    fn update(&self, lora: Lora<Vec<f32>>) -> Rc<dyn LinearUpdate> {
        Rc::new(LoraModule::from_update(&lora, self.0.burn()))
    }
}

/// Output (T, outs) and gradient of the input (T, ins), by our kernels.
async fn by_kernels(context: &Context, operation: Operation, dy: &[f32]) -> [Vec<f32>; 2] {
    let step = context.uniform("step", size_of::<Step>() as u64).unwrap();
    let count = Step { tokens: TOKENS as u32, ..Default::default() };
    context.write(&step, 0, bytemuck::bytes_of(&count));
    let tokens = context.storage_from("tokens", &tokens()).unwrap();
    let table = context.storage_from("rope table", &table()).unwrap();
    let ops = GpuOps::new(context, &step, &tokens, &table, TOKENS, None);
    // All gradients of parameters go to one place and are not looked at here.
    let parameters = context.storage("gradients", 1 << 20).unwrap();
    let place = OnGpu { context: context.clone(), parameters };
    let mut tape = Tape::new(ops, &place.parameters);
    let x = operation.input(&mut tape, &place).unwrap();
    tape.forget();
    let leaf = tape.leaf(&x);
    let y: Tracked = operation.apply(&mut tape, &place, leaf.clone()).unwrap();
    let outs = y.tensor().cols();
    // What the backward works on may be written over by it.
    let kept = kernels::Tensor::new(context, TOKENS, outs).unwrap();
    let none = kernels::Tensor::new(context, TOKENS, outs).unwrap();
    kernels::add::add(tape.ops().recorder(), y.tensor(), &none, &kept).unwrap();
    let dy = kernels::Tensor::from(context, outs, &dy[..TOKENS * outs]).unwrap();
    let dx = tape.backward(&y, dy, &leaf).unwrap().expect("a gradient");
    tape.finish().submit(count.tokens, 1).unwrap();
    let y = context.read(kept.buffer(), 0, TOKENS * outs).await.unwrap();
    [y, context.read(dx.buffer(), 0, TOKENS * operation.ins()).await.unwrap()]
}

/// The same by burn.
async fn by_burn(operation: Operation, dy: &[f32]) -> [Vec<f32>; 2] {
    let place = OnBurn(Device::cpu());
    let packed = Packed::new(&place.0, &tokens(), &table(), HEAD_DIM).unwrap();
    let mut ops = BurnOps::new(&packed);
    let x = operation.input(&mut ops, &place).unwrap();
    let leaf = x.inner().autodiff().require_grad();
    let y = operation.apply(&mut ops, &place, leaf.clone()).unwrap();
    let [rows, outs] = y.dims();
    let dy = place.tensor(&dy[..rows * outs], [rows, outs]);
    let gradients = (y.clone() * dy).sum().backward();
    let dx = leaf.grad(&gradients).expect("a gradient");
    [engram::burn::read(y.inner()).await.unwrap(), engram::burn::read(dx).await.unwrap()]
}

#[track_caller]
fn assert_within(what: &str, actual: &[f32], expected: &[f32], most: f64) {
    let error = relative_error(actual, expected);
    assert!(error <= most, "{what} is off by {error:e}, at most {most:e} is right");
}

#[async_test]
async fn every_operation_is_burns() {
    let context = context().await;
    let dy = hash_values("dy", TOKENS * 512, 1.0);
    for operation in [
        Operation::RmsNorm { features: 1 },
        Operation::RmsNorm { features: 77 },
        Operation::Linear { ins: 33, outs: 5, rank: None, bias: true },
        Operation::Linear { ins: 7, outs: 70, rank: Some(1), bias: false },
        Operation::Linear { ins: 96, outs: 160, rank: Some(5), bias: true },
        Operation::Residual { features: 37 },
        Operation::Rope { heads: 3 },
        Operation::Attention { heads: 1, kv_heads: 1, input: 0 },
        Operation::Attention { heads: 6, kv_heads: 2, input: 0 },
        Operation::Attention { heads: 6, kv_heads: 2, input: 1 },
        Operation::Attention { heads: 6, kv_heads: 2, input: 2 },
        Operation::SiluMul { features: 51, input: 0 },
        Operation::SiluMul { features: 51, input: 1 },
    ] {
        let [y, dx] = by_kernels(&context, operation, &dy).await;
        let [expected_y, expected_dx] = by_burn(operation, &dy).await;
        assert_within(&format!("{operation:?}"), &y, &expected_y, FORWARD);
        assert_within(&format!("the gradient of {operation:?}"), &dx, &expected_dx, GRADIENT);
    }
}

/// The head with its cross-entropy, in which some targets count for nothing.
#[async_test]
async fn cross_entropy_is_burns() {
    let context = context().await;
    let (features, vocab) = (45, 131);
    let weights = hash_values("head", vocab * features, 0.5);
    let hidden = hash_values("hidden", TOKENS * features, 1.0);
    let target = |i: usize| Target {
        id: (i * 37 % vocab) as u32,
        weight: if i.is_multiple_of(3) { 0.0 } else { 0.25 },
    };
    let targets: Vec<Target> = (0..TOKENS).map(target).collect();

    let step = context.uniform("step", size_of::<Step>() as u64).unwrap();
    let count = Step { tokens: TOKENS as u32, ..Default::default() };
    context.write(&step, 0, bytemuck::bytes_of(&count));
    let head = Matrix::from_f32(&context, Format::F32, features, &weights).unwrap();
    let x = kernels::Tensor::from(&context, features, &hidden).unwrap();
    let logits = kernels::Tensor::new(&context, TOKENS, vocab).unwrap();
    let dx = kernels::Tensor::new(&context, TOKENS, features).unwrap();
    let on_gpu = context.storage_from("targets", &targets).unwrap();
    let losses = context.storage("losses", (TOKENS * 4) as u64).unwrap();
    let mut r = Recorder::new(&context, &step);
    kernels::matmul::matmul(&mut r, &x, &head, None, None, &logits).unwrap();
    cross_entropy(&mut r, (&logits, vocab), &on_gpu, &losses, true).unwrap();
    matmul_transposed(&mut r, &logits, &head, &dx, false).unwrap();
    r.finish().submit(count.tokens, 1).unwrap();

    let place = OnBurn(Device::cpu());
    let leaf = place.tensor(&hidden, [TOKENS, features]).autodiff().require_grad();
    let head = place.tensor(&weights, [vocab, features]);
    let ids: Vec<i32> = targets.iter().map(|t| t.id as i32).collect();
    let ids = TensorData::new(ids, [TOKENS, 1]);
    let ids = Tensor::<2, Int>::from_data(ids, place.0.burn());
    let scale: Vec<f32> = targets.iter().map(|t| -t.weight).collect();
    let scale = place.tensor(&scale, [TOKENS, 1]);
    let each = log_softmax(leaf.clone().matmul(head.transpose()), 1).gather(1, ids) * scale;
    let gradients = each.clone().sum().backward();

    let found: Vec<f32> = context.read(&losses, 0, TOKENS).await.unwrap();
    let expected = engram::burn::read(each.inner()).await.unwrap();
    assert_within("the losses", &found, &expected, FORWARD);
    let found: Vec<f32> = context.read(dx.buffer(), 0, TOKENS * features).await.unwrap();
    let expected = engram::burn::read(leaf.grad(&gradients).unwrap()).await.unwrap();
    assert_within("the gradient", &found, &expected, GRADIENT);
}
