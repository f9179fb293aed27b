// Adafactor's step size of each matrix, one workgroup each: scales = (mean of the rows' means, step size,
// step size / max(1, rms(update) / d)), where the step size is lr · max(ε₂, rms(p)) with the relative
// lr = min(10⁻², 1/√t) or the one given.
struct Params {
    eps: f32, // ε₂
    clip_threshold: f32, // d
    scale_parameter: u32,
    relative_step: u32,
    warmup_init: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> places: array<Place>;
@group(0) @binding(3) var<storage, read> gradients: array<f32>;
@group(0) @binding(4) var<storage, read> parameters: array<f32>;
@group(0) @binding(5) var<storage, read> clip: array<f32>; // factor, norm
@group(0) @binding(6) var<storage, read> means: array<f32>;
@group(0) @binding(7) var<storage, read_write> scales: array<vec4<f32>>; // (places)

const THREADS = 256u;
var<workgroup> sums: array<vec2<f32>, THREADS>;

fn total(thread: u32, own: vec2<f32>) -> vec2<f32> {
    sums[thread] = own;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    workgroupBarrier();
    let all = sums[0];
    workgroupBarrier();
    return all;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let place = places[group.x];
    var rows = 0.0;
    for (var row = thread; row < place.rows; row += THREADS) {
        rows += means[place.at + row];
    }
    let mean = total(thread, vec2<f32>(rows, 0.0)).x / f32(place.rows);

    let factor = gradient_factor();
    let count = place.rows * place.cols;
    var squares = vec2<f32>(); // of the update, of the parameters
    for (var i = thread; i < count; i += THREADS) {
        let at = element(place, i);
        let u = gradients[at] * factor * update_scale(place, i, mean);
        squares += vec2<f32>(u * u, parameters[at] * parameters[at]);
    }
    let rms = sqrt(total(thread, squares) / f32(count));
    if thread == 0u {
        let t = f32(step.update);
        var lr = step.learning_rate;
        if params.relative_step != 0u {
            lr = min(select(1e-2, 1e-6 * t, params.warmup_init != 0u), inverseSqrt(t));
        }
        if params.scale_parameter != 0u {
            lr *= max(params.eps, rms.y);
        }
        let clipped = lr / max(1.0, rms.x / params.clip_threshold);
        scales[group.x] = vec4<f32>(mean, lr, clipped, 0.0);
    }
}
