// The running means of Adafactor: of each row (or column) of a matrix the mean square of its gradients,
// v ← β₂v + (1 − β₂)(mean(g²) + ε₁) with β₂ = 1 − tᵈ. Of a vector, a row is one element.
// 32 lines by 8 lanes a workgroup.
override COLUMNS: bool = false;

struct Params {
    decay_rate: f32,
    eps: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> places: array<Place>;
@group(0) @binding(3) var<storage, read> gradients: array<f32>;
@group(0) @binding(4) var<storage, read> clip: array<f32>; // factor, norm
@group(0) @binding(5) var<storage, read_write> means: array<f32>; // rows, then columns, of each place

const LINES = 32u;
const LANES = 8u;
var<workgroup> sums: array<f32, LINES * LANES>;

@compute @workgroup_size(LINES, LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let place = places[group.y];
    let lines = select(place.rows, place.cols, COLUMNS);
    let length = select(place.cols, place.rows, COLUMNS);
    let line = group.x * LINES + local.x;
    let is_there = line < lines && !(COLUMNS && place.is_vector != 0u);
    let factor = gradient_factor();
    var sum = 0.0;
    if is_there {
        for (var k = local.y; k < length; k += LANES) {
            let row = select(line, k, COLUMNS);
            let col = select(k, line, COLUMNS);
            let g = gradients[place.offset + row * place.stride + col] * factor;
            sum += g * g;
        }
    }
    sums[local.y * LINES + local.x] = sum;
    workgroupBarrier();
    if local.y == 0u && is_there && is_sound() {
        for (var lane = 1u; lane < LANES; lane += 1u) {
            sum += sums[lane * LINES + local.x];
        }
        let at = place.at + select(0u, place.rows, COLUMNS) + line;
        let rest = pow(f32(step.update), params.decay_rate); // 1 − β₂
        means[at] = (1.0 - rest) * means[at] + rest * (sum / f32(length) + params.eps);
    }
}
