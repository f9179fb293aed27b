// out[t, j] = scale · Σ_i x[t, i] · M[i, j] for a tall, narrow M (n, rank): a workgroup does eight
// columns of four tokens, so that each load of M serves four products. M = A for `x A`; with other
// strides M = Bᵀ for `dY Bᵀ`.
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
const TOKENS = 4u;
var<workgroup> sums: array<array<vec4<f32>, THREADS>, COLUMNS>; // four tokens each

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * COLUMNS;
    let columns = min(params.rank - first, COLUMNS);
    let token = group.y * TOKENS;
    let tokens = rows_in_use(params.rows);
    let row = vec4<u32>(token) + vec4<u32>(0u, 1u, 2u, 3u);
    let rows = (params.x_row + min(row, vec4<u32>(tokens - 1u))) * params.n;
    var partial: array<vec4<f32>, COLUMNS>;
    for (var i = thread; i < params.n; i += THREADS) {
        let values = vec4<f32>(x[rows.x + i], x[rows.y + i], x[rows.z + i], x[rows.w + i]);
        let at = params.offset + i * params.stride_i + first * params.stride_j;
        for (var j = 0u; j < COLUMNS; j += 1u) {
            if j < columns {
                partial[j] += values * matrix[at + j * params.stride_j];
            }
        }
    }
    for (var j = 0u; j < COLUMNS; j += 1u) {
        sums[j][thread] = partial[j];
    }
    workgroupBarrier();
    // A thread a column and token.
    let column = thread / TOKENS;
    let own = thread % TOKENS;
    if column < columns && token + own < tokens {
        var total = 0.0;
        for (var i = 0u; i < THREADS; i += 1u) {
            total += sums[column][i][own];
        }
        out[(token + own) * params.rank + first + column] = params.scale * total;
    }
}
