// y[t, i] = x[t, i] · w[i] / sqrt(mean(x[t, :]²) + eps)
struct Params {
    rows: vec2<u32>,
    cols: u32,
    eps: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read> weight: array<f32>; // (cols)
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // (T, cols)

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x * params.cols;
    var sum = 0.0;
    for (var i = thread; i < params.cols; i += THREADS) {
        sum += x[row + i] * x[row + i];
    }
    let scale = inverseSqrt(summed(vec2<f32>(sum, 0.0), thread).x / f32(params.cols) + params.eps);
    for (var i = thread; i < params.cols; i += THREADS) {
        y[row + i] = x[row + i] * scale * weight[i];
    }
}
