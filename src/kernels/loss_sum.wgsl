// total += Σ losses[t] over the tokens of this replay, in one workgroup: the same order every time.
struct Params {
    unused: vec4<u32>,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> losses: array<f32>; // (T)
@group(0) @binding(3) var<storage, read_write> total: array<f32>; // (1)

const THREADS = 64u;
var<workgroup> sums: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    for (var t = thread; t < step.tokens; t += THREADS) {
        sum += losses[t];
    }
    sums[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    if thread == 0u {
        total[0] += sums[0];
    }
}
