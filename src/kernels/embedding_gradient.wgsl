// dTable[id, :] += Σ dY[t, :] over the tokens t of that id. A workgroup a token: the first of an id
// adds up all of them, so that no two write the same row and the order of the sum is fixed.
struct Params {
    rows: vec2<u32>,
    cols: u32,
    stride: u32, // from row to row of the gradient
    first_row: u32, // of the gradient's part that is bound
    table_rows: u32, // of that part
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<vec4<u32>>; // (T)
@group(0) @binding(3) var<storage, read> dy: array<f32>; // (T, cols)
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>; // a part of (vocab, cols)

const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = group.x;
    let id = tokens[token].x;
    if id < params.first_row || id - params.first_row >= params.table_rows {
        return;
    }
    for (var t = 0u; t < token; t += 1u) {
        if tokens[t].x == id {
            return;
        }
    }
    let row = (id - params.first_row) * params.stride;
    for (var t = token; t < rows_in_use(params.rows); t += 1u) {
        if tokens[t].x == id {
            for (var c = thread; c < params.cols; c += THREADS) {
                gradient[row + c] += dy[t * params.cols + c];
            }
        }
    }
}
