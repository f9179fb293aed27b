// Gradients of silu(gate) · up; silu'(x) = σ(x) · (1 + x · (1 − σ(x)))
struct Params {
    rows: vec2<u32>,
    cols: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read> up: array<f32>; // (T, cols)
@group(0) @binding(4) var<storage, read> d_out: array<f32>; // (T, cols)
@group(0) @binding(5) var<storage, read_write> d_gate: array<f32>; // (T, cols)
@group(0) @binding(6) var<storage, read_write> d_up: array<f32>; // (T, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.cols {
        let i = group.y * params.cols + id.x;
        let x = gate[i];
        let sigmoid = 1.0 / (1.0 + exp(-x));
        d_up[i] = d_out[i] * x * sigmoid;
        d_gate[i] = d_out[i] * up[i] * sigmoid * (1.0 + x * (1.0 - sigmoid));
    }
}
