// dX[t, i] (+)= Σ_o dY[t, o] · W[o, i]: the backward of `matmul.wgsl` towards its input, with the
// same tiles; 32 outputs at a time in workgroup memory.

const TILE = 32u;
const SIDE = 8u;
const PER = 4u;
// (output, token) and (output, column)
var<workgroup> dy_tile: array<vec4<f32>, TILE * SIDE>;
var<workgroup> w_tile: array<vec4<f32>, TILE * SIDE>;

@compute @workgroup_size(SIDE, SIDE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tokens = rows_in_use(params.rows);
    let first_token = group.y * TILE;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let block = group.x;

    var sums: array<vec4<f32>, PER>;
    for (var first = 0u; first < params.part_rows; first += TILE) {
        let lane = thread / SIDE;
        let four = thread % SIDE;
        for (var c = 0u; c < PER; c += 1u) {
            let row = first + lane * PER + c;
            var values = vec4<f32>();
            for (var j = 0u; j < 4u; j += 1u) {
                let token = first_token + four * 4u + j;
                if token < tokens && row < params.part_rows {
                    let at = (params.dy_row + token) * params.dy_cols;
                    values[j] = dy[at + params.first_out + row];
                }
            }
            dy_tile[(lane * PER + c) * SIDE + four] = values;
        }
        for (var j = 0u; j < 2u; j += 1u) {
            let row = (thread + j * SIDE * SIDE) / 4u;
            let quarter = thread % 4u;
            var w = Eight();
            if first + row < params.part_rows {
                w = eight_weights((first + row) * blocks + block, quarter);
            }
            w_tile[row * SIDE + quarter * 2u] = w.a;
            w_tile[row * SIDE + quarter * 2u + 1u] = w.b;
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE; k += 1u) {
            let ds = dy_tile[k * SIDE + local.y];
            let ws = w_tile[k * SIDE + local.x];
            sums[0] += ds.x * ws;
            sums[1] += ds.y * ws;
            sums[2] += ds.z * ws;
            sums[3] += ds.w * ws;
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < PER; i += 1u) {
        let token = first_token + local.y * PER + i;
        for (var j = 0u; j < PER; j += 1u) {
            let col = block * BLOCK + local.x * PER + j;
            if token < tokens && col < params.in_features {
                let at = (params.dx_row + token) * params.in_features + col;
                if params.accumulate != 0u {
                    dx[at] += sums[i][j];
                } else {
                    dx[at] = sums[i][j];
                }
            }
        }
    }
}
