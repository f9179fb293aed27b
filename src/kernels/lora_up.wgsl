// y[t, o] (+)= scale · Σ_j h[t, j] · M[j, o] for a flat, wide M (rank, n): a thread does four tokens by
// four outputs, so that each load serves four products. M = B for `(x A) B`; with other strides
// M = Aᵀ for `dH Aᵀ`.
struct Params {
    rows: vec2<u32>,
    y_row: u32,
    n: u32,
    rank: u32,
    offset: u32, // of M in `matrix`
    stride_j: u32,
    stride_o: u32,
    scale: f32,
    accumulate: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> h: array<f32>; // (T, rank)
@group(0) @binding(3) var<storage, read> matrix: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // (T, n)

const THREADS = 64u;
const TOKENS = 4u;
const OUTS = 4u;

fn store(token: u32, outs: vec4<u32>, sums: vec4<f32>) {
    if token >= rows_in_use(params.rows) {
        return;
    }
    for (var i = 0u; i < OUTS; i += 1u) {
        if outs[i] < params.n {
            let at = (params.y_row + token) * params.n + outs[i];
            y[at] = select(0.0, y[at], params.accumulate != 0u) + params.scale * sums[i];
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    // Neighbouring threads have neighbouring outputs.
    let first = group.x * THREADS * OUTS + thread;
    let outs = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u) * THREADS;
    let at = params.offset + min(outs, vec4<u32>(params.n - 1u)) * params.stride_o;
    let token = group.y * TOKENS;
    let last = rows_in_use(params.rows) - 1u;
    let rows = min(vec4<u32>(token) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) * params.rank;

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var j = 0u; j < params.rank; j += 1u) {
        let m = at + j * params.stride_j;
        let values = vec4<f32>(matrix[m.x], matrix[m.y], matrix[m.z], matrix[m.w]);
        sum0 += h[rows.x + j] * values;
        sum1 += h[rows.y + j] * values;
        sum2 += h[rows.z + j] * values;
        sum3 += h[rows.w + j] * values;
    }
    store(token, outs, sum0);
    store(token + 1u, outs, sum1);
    store(token + 2u, outs, sum2);
    store(token + 3u, outs, sum3);
}
