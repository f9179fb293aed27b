// s[t] = 1 / sqrt(mean(x[t, :]²) + eps), what `rms_norm.wgsl` multiplies a row by.
struct Params {
    rows: vec2<u32>,
    cols: u32,
    eps: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read_write> scales: array<f32>; // (T)

const THREADS = 64u;
var<workgroup> sums: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x * params.cols;
    var sum = 0.0;
    for (var i = thread; i < params.cols; i += THREADS) {
        sum += x[row + i] * x[row + i];
    }
    sums[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    if thread == 0u {
        scales[group.x] = inverseSqrt(sums[0] / f32(params.cols) + params.eps);
    }
}
