// Shared by the kernels of `matmul_transposed.rs`: what they are given.
struct Params {
    rows: vec2<u32>,
    dy_row: u32,
    dx_row: u32,
    in_features: u32,
    dy_cols: u32, // the outputs, or more
    first_out: u32, // of the part of W that is bound
    part_rows: u32, // of that part
    accumulate: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
// values, scales: a part of W (out, in)
@group(0) @binding(4) var<storage, read> dy: array<f32>; // (rows, out)
@group(0) @binding(5) var<storage, read_write> dx: array<f32>; // (rows, in)
