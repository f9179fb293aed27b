// y[t, o] += scale · Σ_j h[t, j] · M[j, o] for a flat, wide M (rank, n): a thread an output. M = B
// for `(x A) B`; with other strides M = Aᵀ for `dH Aᵀ`.
struct Params {
    rows: vec2<u32>,
    y_row: u32,
    n: u32,
    rank: u32,
    offset: u32, // of M in `matrix`
    stride_j: u32,
    stride_o: u32,
    scale: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> h: array<f32>; // (T, rank)
@group(0) @binding(3) var<storage, read> matrix: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // (T, n)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let o = id.x;
    let token = id.y;
    if o >= params.n {
        return;
    }
    let first = params.offset + o * params.stride_o;
    var sum = 0.0;
    for (var j = 0u; j < params.rank; j += 1u) {
        sum += h[token * params.rank + j] * matrix[first + j * params.stride_j];
    }
    y[(params.y_row + token) * params.n + o] += params.scale * sum;
}
