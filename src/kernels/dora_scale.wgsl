// y[t, o] = z[t, o] · m[o] / lengths[o] + bias[o] + residual[t, o]
override BIAS: bool = false;
override RESIDUAL: bool = false;

struct Params {
    rows: vec2<u32>,
    cols: u32,
    magnitude: u32, // where m begins in the parameters
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> z: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read> parameters: array<f32>; // m (cols)
@group(0) @binding(4) var<storage, read> lengths: array<f32>; // (cols)
@group(0) @binding(5) var<storage, read> bias: array<f32>; // (cols)
@group(0) @binding(6) var<storage, read> residual: array<f32>; // (T, cols)
@group(0) @binding(7) var<storage, read_write> y: array<f32>; // (T, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(global_invocation_id) id: vec3<u32>) {
    let col = id.x;
    if col >= params.cols {
        return;
    }
    let at = group.y * params.cols + col;
    // A row of zeros has no direction; whatever its length is divided by, it stays nothing.
    var value = z[at] * parameters[params.magnitude + col] / max(lengths[col], 1e-30);
    if BIAS {
        value += bias[col];
    }
    if RESIDUAL {
        value += residual[at];
    }
    y[at] = value;
}
