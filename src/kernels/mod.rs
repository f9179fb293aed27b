//! WGSL kernels, each `x.wgsl` beside its `x.rs`.
