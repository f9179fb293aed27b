//! WGSL kernels, each `x.wgsl` beside its `x.rs`: parameters, dispatch, naive CPU reference
//! (which accumulates in f64) and parity test.
//!
//! Conventions: binding 0 is the [`Step`](crate::gpu::Step), binding 1 the kernel's `Params`,
//! storage buffers follow (at most 8, what WebGPU guarantees). Activations are f32, row-major
//! (tokens, features). A kernel works on the rows in use and leaves the others alone.

pub mod adafactor;
pub mod adam;
pub mod add;
pub mod append;
pub mod attention;
pub mod attention_backward;
pub mod attention_step;
pub mod check;
pub mod cross_entropy;
pub mod dora;
pub mod dropout;
pub mod embedding;
pub mod embedding_gradient;
pub mod fuse;
pub mod gate;
pub mod kv;
pub mod last_row;
pub mod lora;
pub mod lora_embedding;
pub mod loss_sum;
pub mod matmul;
pub mod matmul_transposed;
pub mod matvec;
pub mod muon;
pub mod optimizer;
pub mod rms_norm;
pub mod rms_norm_backward;
pub mod rope;
pub mod sample;
pub mod self_test;
pub mod sgd;
pub mod silu_mul;
mod tensor;
pub mod tune;
pub mod vector_gradient;
pub mod weight;
pub mod weight_gradient;

pub use crate::data::token::{Target, Token};
pub use tensor::{Rows, Tensor};

use crate::gpu::Extent;

/// A side of the grid that needs no second workgroup.
const ONE: Extent = Extent::Fixed(1);
