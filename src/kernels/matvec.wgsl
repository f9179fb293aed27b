// y[o] = W[o, :]·x + bias[o] + residual[o] for one token: eight rows a workgroup, eight lanes a row,
// a block of 32 columns a lane and turn, so that neighbouring lanes load neighbouring 16 bytes.

const LANES = 8u;
const ROWS = 8u;
var<workgroup> partial: array<f32, LANES * ROWS>;

fn one_x(first: u32, col: u32) -> f32 {
    return select(0.0, x[first + col], col < params.in_features);
}

fn four_x(first: u32, col: u32) -> vec4<f32> {
    return vec4<f32>(
        one_x(first, col),
        one_x(first, col + 1u),
        one_x(first, col + 2u),
        one_x(first, col + 3u),
    );
}

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let row = group.x * ROWS + thread / LANES;
    let first_x = params.x_row * params.in_features;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    var sum = vec4<f32>();
    if row < params.part_rows {
        for (var block = lane; block < blocks; block += LANES) {
            for (var quarter = 0u; quarter < 4u; quarter += 1u) {
                let w = eight_weights(row * blocks + block, quarter);
                let col = block * BLOCK + quarter * 8u;
                sum += w.a * four_x(first_x, col) + w.b * four_x(first_x, col + 4u);
            }
        }
    }
    partial[thread] = sum.x + sum.y + sum.z + sum.w;
    workgroupBarrier();
    if lane == 0u && row < params.part_rows {
        var total = 0.0;
        for (var i = 0u; i < LANES; i += 1u) {
            total += partial[thread + i];
        }
        let out = params.first_out + row;
        if params.has_bias != 0u {
            total += bias[out];
        }
        let at = params.y_row * params.out_features + out;
        if params.has_residual != 0u {
            total += residual[at];
        }
        y[at] = total;
    }
}
