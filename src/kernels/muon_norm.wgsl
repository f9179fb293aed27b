// Divides each matrix by its norm, one workgroup each; vectors stay.
struct Params {
    eps: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> places: array<Place>;
@group(0) @binding(3) var<storage, read_write> update: array<f32>;

const THREADS = 256u;
var<workgroup> sums: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let place = places[group.x];
    let count = select(place.rows * place.cols, 0u, place.is_vector != 0u);
    var sum = 0.0;
    for (var i = thread; i < count; i += THREADS) {
        let at = element(place, i);
        sum += update[at] * update[at];
    }
    sums[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    workgroupBarrier();
    let scale = 1.0 / (sqrt(sums[0]) + params.eps);
    for (var i = thread; i < count; i += THREADS) {
        let at = element(place, i);
        update[at] *= scale;
    }
}
