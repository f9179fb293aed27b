// The gate of the MLP where an adapter's updates of gate and up are still to be added:
// out[i] = silu(gate[i]) · up[i] for one token, and its share of the next layer's x A.

struct Up {
    place: u32, // B's, in `parameters`
    rank: u32,
    at: u32, // h's, in `x`
    scale: f32,
}

struct Params {
    cols: u32,
    second: u32, // where up begins in `x`
    pad: vec2<u32>,
    gate_up: Up,
    up_up: Up,
    down: Narrow,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // gate and up (cols), h's
@group(0) @binding(3) var<storage, read> parameters: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // (cols), then a share of h a workgroup

fn updated(at: u32, col: u32, up: Up) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < up.rank; j += 1u) {
        sum += x[up.at + j] * parameters[up.place + j * params.cols + col];
    }
    return x[at + col] + up.scale * sum;
}

@compute @workgroup_size(NARROW_THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * NARROW_FEATURES;
    let count = min(params.cols - first, NARROW_FEATURES);
    for (var i = thread; i < count; i += NARROW_THREADS) {
        let gate = updated(0u, first + i, params.gate_up);
        let up = updated(params.second, first + i, params.up_up);
        let value = gate / (1.0 + exp(-gate)) * up;
        out[first + i] = value;
        features[i] = value;
    }
    narrow(params.down, group.x, first, count, thread);
}
