// p ← p − lr · max(1, √(rows / columns)) · update, of vectors p ← p − lr · update: Muon's last kernel.
struct Params {
    pad: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> places: array<Place>;
@group(0) @binding(3) var<storage, read> clip: array<f32>; // factor, norm
@group(0) @binding(4) var<storage, read> matrices: array<f32>; // the orthogonal updates
@group(0) @binding(5) var<storage, read> vectors: array<f32>; // the others
@group(0) @binding(6) var<storage, read_write> parameters: array<f32>;

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
    let scale = sqrt(max(1.0, f32(place.rows) / f32(place.cols)));
    for (var i = id.x; i < place.rows * place.cols; i += groups.x * THREADS) {
        let at = element(place, i);
        if place.is_vector != 0u {
            parameters[at] -= step.learning_rate * vectors[at];
        } else {
            parameters[at] -= step.learning_rate * scale * matrices[at];
        }
    }
}
