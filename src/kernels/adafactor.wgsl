// p ← p · (1 − step size · λ) − clipped step size · update: the last of Adafactor's kernels.
struct Params {
    weight_decay: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> places: array<Place>;
@group(0) @binding(3) var<storage, read> gradients: array<f32>;
@group(0) @binding(4) var<storage, read> clip: array<f32>; // factor, norm
@group(0) @binding(5) var<storage, read> means: array<f32>;
@group(0) @binding(6) var<storage, read> scales: array<vec4<f32>>; // of adafactor_scale.wgsl
@group(0) @binding(7) var<storage, read_write> parameters: array<f32>;

const THREADS = 256u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    if !is_sound() {
        return;
    }
    let place = places[group.y];
    let scale = scales[group.y];
    let factor = gradient_factor();
    for (var i = id.x; i < place.rows * place.cols; i += groups.x * THREADS) {
        let at = element(place, i);
        let update = gradients[at] * factor * update_scale(place, i, scale.x);
        let kept = parameters[at] * (1.0 - params.weight_decay * scale.y);
        parameters[at] = kept - scale.z * update;
    }
}
