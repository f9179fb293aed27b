// Shared by the kernels of `weight_gradient.rs`: what they are given.
struct Params {
    rows: vec2<u32>,
    x_row: u32,
    dy_row: u32,
    in_features: u32,
    dy_cols: u32, // the outputs, or more
    first_out: u32, // of the part of W whose gradient is bound
    part_rows: u32, // of that part
    stride: u32, // from row to row of the gradient
}

@group(0) @binding(1) var<uniform> params: Params;
