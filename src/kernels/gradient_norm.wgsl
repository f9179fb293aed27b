// The norm of all gradients: each workgroup of an array's dispatch leaves the sum of its share's
// squares, a last dispatch of one workgroup adds them up and derives the clipping factor.
struct Params {
    count: u32,
    finish: u32,
    max_norm: f32, // 0: no clipping
    first: u32, // of the array's sums in `partial`
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gradients: array<f32>; // (count)
@group(0) @binding(3) var<storage, read_write> partial: array<f32>; // (arrays · THREADS)
@group(0) @binding(4) var<storage, read_write> clip: array<f32>; // factor, norm

const THREADS = 256u;
var<workgroup> sums: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var sum = 0.0;
    if params.finish != 0u {
        for (var i = thread; i < arrayLength(&partial); i += THREADS) {
            sum += partial[i];
        }
    } else {
        for (var i = group.x * THREADS + thread; i < params.count; i += groups.x * THREADS) {
            sum += gradients[i] * gradients[i];
        }
    }
    sums[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    if thread == 0u {
        if params.finish == 0u {
            partial[params.first + group.x] = sums[0];
            return;
        }
        let norm = sqrt(sums[0]) * step.gradient_scale;
        var factor = 1.0;
        if params.max_norm > 0.0 {
            factor = min(1.0, params.max_norm / (norm + 1e-6));
        }
        clip[0] = factor;
        clip[1] = norm;
    }
}
