// Shared by the kernels of `matmul.rs`: what they are given.
struct Params {
    rows: vec2<u32>,
    x_row: u32,
    y_row: u32,
    in_features: u32,
    y_cols: u32, // the outputs, or more
    first_out: u32, // of the part of W that is bound
    part_rows: u32, // of that part
    has_bias: u32,
    has_residual: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
// values, scales: a part of W (out, in)
@group(0) @binding(4) var<storage, read> x: array<f32>; // (rows, in)
@group(0) @binding(5) var<storage, read> bias: array<f32>; // (out)
@group(0) @binding(6) var<storage, read> residual: array<f32>; // (rows, out)
@group(0) @binding(7) var<storage, read_write> y: array<f32>; // (rows, out)
