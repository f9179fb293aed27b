// y[t, :] = table[token[t].id, :]
struct Params {
    rows: vec2<u32>,
    cols: u32,
    first_row: u32, // of the table's part that is bound
    table_rows: u32, // of that part
}

@group(0) @binding(1) var<uniform> params: Params;
// values, scales: a part of the table (vocab, cols)
@group(0) @binding(4) var<storage, read> tokens: array<vec4<u32>>; // (T)
@group(0) @binding(5) var<storage, read_write> y: array<f32>; // (T, cols)

const THREADS = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = group.x;
    let id = tokens[token].x;
    if id < params.first_row || id - params.first_row >= params.table_rows {
        return;
    }
    let blocks = (params.cols + BLOCK - 1u) / BLOCK;
    let first_block = (id - params.first_row) * blocks;
    for (var i = thread; i < blocks * 4u; i += THREADS) {
        let eight = eight_weights(first_block + i / 4u, i % 4u);
        for (var j = 0u; j < 8u; j += 1u) {
            let col = i * 8u + j;
            if col < params.cols {
                y[token * params.cols + col] = select(eight.a[j & 3u], eight.b[j & 3u], j > 3u);
            }
        }
    }
}
