// Y[t, o] = Σ_i X[t, i] · W[o, i] + bias[o] + residual[t, o]: a tile of 32 tokens by 32 outputs a
// workgroup, 32 columns at a time in workgroup memory, 4 × 4 outputs a thread.

const TILE = 32u;
const SIDE = 8u; // threads a side
const PER = 4u; // outputs a thread and side
// (column, token) and (column, output): the inner loop reads four neighbours of each.
var<workgroup> x_tile: array<vec4<f32>, BLOCK * SIDE>;
// Scalars: different threads write neighbours, which as parts of one vector would race.
var<workgroup> w_tile: array<f32, BLOCK * TILE>;

@compute @workgroup_size(SIDE, SIDE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tokens = rows_in_use(params.rows);
    let first_token = group.y * TILE;
    let first_row = group.x * TILE;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;

    var sums: array<vec4<f32>, PER>;
    for (var block = 0u; block < blocks; block += 1u) {
        let lane = thread / SIDE; // loads columns lane·4 …
        let four = thread % SIDE; // of tokens four·4 …
        for (var c = 0u; c < PER; c += 1u) {
            let col = lane * PER + c;
            var values = vec4<f32>();
            for (var j = 0u; j < 4u; j += 1u) {
                let token = first_token + four * 4u + j;
                let at = block * BLOCK + col;
                if token < tokens && at < params.in_features {
                    values[j] = x[(params.x_row + token) * params.in_features + at];
                }
            }
            x_tile[col * SIDE + four] = values;
        }
        for (var j = 0u; j < 2u; j += 1u) {
            // 32 rows × 4 quarters = 128 loads of eight weights.
            let row = (thread + j * SIDE * SIDE) / 4u;
            let quarter = thread % 4u;
            var w = Eight();
            if first_row + row < params.part_rows {
                w = eight_weights((first_row + row) * blocks + block, quarter);
            }
            for (var k = 0u; k < 4u; k += 1u) {
                w_tile[(quarter * 8u + k) * TILE + row] = w.a[k];
                w_tile[(quarter * 8u + 4u + k) * TILE + row] = w.b[k];
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < BLOCK; k += 1u) {
            let xs = x_tile[k * SIDE + local.y];
            let at = k * TILE + local.x * PER;
            let ws = vec4(w_tile[at], w_tile[at + 1u], w_tile[at + 2u], w_tile[at + 3u]);
            sums[0] += xs.x * ws;
            sums[1] += xs.y * ws;
            sums[2] += xs.z * ws;
            sums[3] += xs.w * ws;
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < PER; i += 1u) {
        let token = first_token + local.y * PER + i;
        for (var j = 0u; j < PER; j += 1u) {
            let row = first_row + local.x * PER + j;
            if token < tokens && row < params.part_rows {
                let out = params.first_out + row;
                let at = (params.y_row + token) * params.y_cols + out;
                var total = sums[i][j];
                if params.has_bias != 0u {
                    total += bias[out];
                }
                if params.has_residual != 0u {
                    total += residual[at];
                }
                y[at] = total;
            }
        }
    }
}
