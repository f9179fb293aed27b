// Muon's momentum, v ← μv + (1 − μ)(g + λp), and what becomes the update: v, or (1 − μ)g + μv with
// Nesterov's. Of a vector that is the update already. A workgroup row a matrix.
struct Params {
    momentum: f32,
    nesterov: u32,
    weight_decay: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> places: array<Place>;
@group(0) @binding(3) var<storage, read> gradients: array<f32>;
@group(0) @binding(4) var<storage, read> clip: array<f32>; // factor, norm
@group(0) @binding(5) var<storage, read> parameters: array<f32>;
@group(0) @binding(6) var<storage, read_write> velocity: array<f32>;
@group(0) @binding(7) var<storage, read_write> update: array<f32>;

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
    let factor = gradient_factor();
    let rest = 1.0 - params.momentum;
    for (var i = id.x; i < place.rows * place.cols; i += groups.x * THREADS) {
        let at = element(place, i);
        let g = gradients[at] * factor + params.weight_decay * parameters[at];
        let v = params.momentum * velocity[at] + rest * g;
        velocity[at] = v;
        update[at] = select(v, rest * g + params.momentum * v, params.nesterov != 0u);
    }
}
