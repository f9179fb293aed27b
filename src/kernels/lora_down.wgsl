// out[t, j] = scale · Σ_i x[t, i] · M[i, j] for a tall, narrow M (n, rank): a workgroup does eight
// columns of a token. M = A for `x A`; with other strides M = Bᵀ for `dY Bᵀ`.
struct Params {
    rows: vec2<u32>,
    x_row: u32,
    n: u32,
    rank: u32,
    offset: u32, // of M in `matrix`
    stride_i: u32,
    stride_j: u32,
    scale: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // (T, n)
@group(0) @binding(3) var<storage, read> matrix: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // (T, rank)

const THREADS = 64u;
const COLUMNS = 8u;
var<workgroup> sums: array<array<f32, THREADS>, COLUMNS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * COLUMNS;
    let columns = min(params.rank - first, COLUMNS);
    let row = (params.x_row + group.y) * params.n;
    var partial: array<f32, COLUMNS>;
    for (var i = thread; i < params.n; i += THREADS) {
        let value = x[row + i];
        let at = params.offset + i * params.stride_i + first * params.stride_j;
        for (var j = 0u; j < COLUMNS; j += 1u) {
            if j < columns {
                partial[j] += value * matrix[at + j * params.stride_j];
            }
        }
    }
    for (var j = 0u; j < COLUMNS; j += 1u) {
        sums[j][thread] = partial[j];
    }
    workgroupBarrier();
    if thread < columns {
        var total = 0.0;
        for (var i = 0u; i < THREADS; i += 1u) {
            total += sums[thread][i];
        }
        out[group.y * params.rank + first + thread] = params.scale * total;
    }
}
