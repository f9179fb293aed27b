// dW[o, i] += Σ_t dY[t, o] · X[t, i]: a tile of 32 outputs by 32 columns a workgroup, 32 tokens at a
// time in workgroup memory, 4 × 4 of the tile a thread.

@group(0) @binding(2) var<storage, read> x: array<f32>; // (rows, in)
@group(0) @binding(3) var<storage, read> dy: array<f32>; // (rows, out)
@group(0) @binding(4) var<storage, read_write> dw: array<f32>; // a part of (out, in), rows of `stride`

const TILE = 32u;
const SIDE = 8u; // threads a side
const PER = 4u; // of the tile a thread and side
// (token, output) and (token, column)
var<workgroup> dy_tile: array<vec4<f32>, TILE * SIDE>;
var<workgroup> x_tile: array<vec4<f32>, TILE * SIDE>;

@compute @workgroup_size(SIDE, SIDE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tokens = rows_in_use(params.rows);
    let first_col = group.x * TILE;
    let first_row = group.y * TILE;

    var sums: array<vec4<f32>, PER>;
    for (var first = 0u; first < tokens; first += TILE) {
        for (var c = 0u; c < PER; c += 1u) {
            let at = thread + c * SIDE * SIDE;
            let token = first + at / SIDE;
            let four = (at % SIDE) * 4u;
            var dys = vec4<f32>();
            var xs = vec4<f32>();
            for (var j = 0u; j < 4u; j += 1u) {
                let row = first_row + four + j;
                if token < tokens && row < params.part_rows {
                    dys[j] = dy[(params.dy_row + token) * params.dy_cols + params.first_out + row];
                }
                let col = first_col + four + j;
                if token < tokens && col < params.in_features {
                    xs[j] = x[(params.x_row + token) * params.in_features + col];
                }
            }
            dy_tile[at] = dys;
            x_tile[at] = xs;
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE; k += 1u) {
            let dys = dy_tile[k * SIDE + local.y];
            let xs = x_tile[k * SIDE + local.x];
            sums[0] += dys.x * xs;
            sums[1] += dys.y * xs;
            sums[2] += dys.z * xs;
            sums[3] += dys.w * xs;
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < PER; i += 1u) {
        let row = first_row + local.y * PER + i;
        for (var j = 0u; j < PER; j += 1u) {
            let col = first_col + local.x * PER + j;
            if row < params.part_rows && col < params.in_features {
                dw[row * params.stride + col] += sums[i][j];
            }
        }
    }
}
