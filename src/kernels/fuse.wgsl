// W[o, :] ← c · (W[o, :] + scale · (A B)ᵀ[o, :]), an update put into the weights that it is for: c is 1,
// or with a magnitude what gives the row that length (DoRA). A workgroup a row.
struct Params {
    in_features: u32,
    stride: u32, // from row to row of W
    first_out: u32, // of the part of W that is bound
    outs: u32, // of all of W
    rank: u32,
    a: u32, // where A begins in the parameters
    b: u32,
    magnitude: u32,
    scale: f32,
    has_magnitude: u32,
    part_rows: u32, // of that part
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parameters: array<f32>; // A (in, rank), B (rank, out), m (out)
@group(0) @binding(3) var<storage, read_write> weight: array<f32>; // a part of (out, in)

const THREADS = 64u;
var<workgroup> sums: array<f32, THREADS>;

fn updated(row: u32, i: u32) -> f32 {
    var product = 0.0;
    for (var r = 0u; r < params.rank; r += 1u) {
        let b = parameters[params.b + r * params.outs + params.first_out + row];
        product += parameters[params.a + i * params.rank + r] * b;
    }
    return weight[row * params.stride + i] + params.scale * product;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= params.part_rows {
        return;
    }
    var sum = 0.0;
    for (var i = thread; i < params.in_features; i += THREADS) {
        let value = updated(row, i);
        weight[row * params.stride + i] = value;
        sum += value * value;
    }
    sums[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    workgroupBarrier();
    if params.has_magnitude != 0u {
        let length = sqrt(sums[0]);
        let ratio = parameters[params.magnitude + params.first_out + row] / length;
        for (var i = thread; i < params.in_features; i += THREADS) {
            weight[row * params.stride + i] *= ratio;
        }
    }
}
