// y[t, o] += scale · Σ_j A[token[t].id, j] · B[j, o]: a thread an output. A token outside of A leaves its
// row as it was, as in embedding.wgsl.
struct Params {
    rows: vec2<u32>,
    n: u32,
    rank: u32,
    a: u32, // of A in `parameters`
    b: u32, // of B there
    vocab: u32,
    scale: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<vec4<u32>>; // (T)
@group(0) @binding(3) var<storage, read> parameters: array<f32>; // A (vocab, rank) and B (rank, n)
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // (T, n)

const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let out = group.x * THREADS + thread;
    let token = group.y;
    let id = tokens[token].x;
    if out >= params.n || id >= params.vocab {
        return;
    }
    let row = params.a + id * params.rank;
    var sum = 0.0;
    for (var j = 0u; j < params.rank; j += 1u) {
        sum += parameters[row + j] * parameters[params.b + j * params.n + out];
    }
    y[token * params.n + out] += params.scale * sum;
}
