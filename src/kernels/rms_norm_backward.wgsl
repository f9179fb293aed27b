// dx of y = x · s · w with s = 1/√(mean(x²) + eps), g = dy · w:
// dx[i] (+)= s · (g[i] − x[i] · s² · mean(g · x))
struct Params {
    rows: vec2<u32>,
    cols: u32,
    eps: f32,
    accumulate: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read> weight: array<f32>; // (cols)
@group(0) @binding(4) var<storage, read> dy: array<f32>; // (T, cols)
@group(0) @binding(5) var<storage, read_write> dx: array<f32>; // (T, cols)

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x * params.cols;
    var sum = vec2(0.0); // Σ x², Σ g·x
    for (var i = thread; i < params.cols; i += THREADS) {
        let value = x[row + i];
        sum += value * vec2(value, dy[row + i] * weight[i]);
    }
    let means = summed(sum, thread) / f32(params.cols);
    let scale = inverseSqrt(means.x + params.eps);
    let pull = scale * scale * means.y;
    for (var i = thread; i < params.cols; i += THREADS) {
        let slope = scale * (dy[row + i] * weight[i] - x[row + i] * pull);
        if params.accumulate != 0u {
            dx[row + i] += slope;
        } else {
            dx[row + i] = slope;
        }
    }
}
