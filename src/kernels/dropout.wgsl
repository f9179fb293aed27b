// y[t, i] (+)= x[t, i] / (1 − p) with probability 1 − p, else (+)= 0. What is kept depends on the step's
// seed, the salt and the place alone, so that a backward keeps what its forward kept.
struct Params {
    rows: vec2<u32>,
    cols: u32,
    threshold: u32, // p · 2³²
    scale: f32, // 1 / (1 − p)
    salt: u32,
    accumulate: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (T, cols)

const THREADS = 64u;

// PCG's output function (O'Neill, 2014) on one step of its generator.
fn hash(value: u32) -> u32 {
    let state = value * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let salt = hash(params.salt ^ hash(step.seed));
    for (var i = thread; i < params.cols; i += THREADS) {
        let at = group.x * params.cols + i;
        let is_kept = hash(at ^ salt) >= params.threshold;
        let value = select(0.0, params.scale * x[at], is_kept);
        if params.accumulate != 0u {
            y[at] += value;
        } else {
            y[at] = value;
        }
    }
}
