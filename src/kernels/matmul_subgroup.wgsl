// `matmul.wgsl` for adapters where a load costs far more than arithmetic: software
// ones gather lane by lane. Weights stay in registers, four rows a thread; each lane loads one of
// eight columns of X and broadcasts it. Needs subgroups of eight lanes.
const THREADS = 8u;
const TOKENS = 16u; // of a workgroup
const ROWS = 4u; // of W, a thread

// Eight columns of four rows of W, column by column.
fn four_rows(blocks: vec4<u32>, quarter: u32, scales: array<vec2<f32>, ROWS>) -> array<vec4<f32>, 8> {
    let r0 = eight_scaled(blocks.x, quarter, scales[0]);
    let r1 = eight_scaled(blocks.y, quarter, scales[1]);
    let r2 = eight_scaled(blocks.z, quarter, scales[2]);
    let r3 = eight_scaled(blocks.w, quarter, scales[3]);
    return array<vec4<f32>, 8>(
        vec4<f32>(r0.a.x, r1.a.x, r2.a.x, r3.a.x),
        vec4<f32>(r0.a.y, r1.a.y, r2.a.y, r3.a.y),
        vec4<f32>(r0.a.z, r1.a.z, r2.a.z, r3.a.z),
        vec4<f32>(r0.a.w, r1.a.w, r2.a.w, r3.a.w),
        vec4<f32>(r0.b.x, r1.b.x, r2.b.x, r3.b.x),
        vec4<f32>(r0.b.y, r1.b.y, r2.b.y, r3.b.y),
        vec4<f32>(r0.b.z, r1.b.z, r2.b.z, r3.b.z),
        vec4<f32>(r0.b.w, r1.b.w, r2.b.w, r3.b.w),
    );
}

// Four rows times one token's column `col` of each lane, summed over eight lanes.
fn times(token: u32, col: u32, w: array<vec4<f32>, 8>) -> vec4<f32> {
    let row = params.x_row + min(token, rows_in_use(params.rows) - 1u);
    let v = select(0.0, x[row * params.in_features + col], col < params.in_features);
    var sum = subgroupBroadcast(v, 0u) * w[0];
    sum += subgroupBroadcast(v, 1u) * w[1];
    sum += subgroupBroadcast(v, 2u) * w[2];
    sum += subgroupBroadcast(v, 3u) * w[3];
    sum += subgroupBroadcast(v, 4u) * w[4];
    sum += subgroupBroadcast(v, 5u) * w[5];
    sum += subgroupBroadcast(v, 6u) * w[6];
    sum += subgroupBroadcast(v, 7u) * w[7];
    return sum;
}

fn store(token: u32, row: u32, sums: vec4<f32>) {
    if token >= rows_in_use(params.rows) {
        return;
    }
    for (var i = 0u; i < ROWS; i += 1u) {
        if row + i < params.part_rows {
            let out = params.first_out + row + i;
            let at = (params.y_row + token) * params.out_features + out;
            var total = sums[i];
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

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let token = group.y * TOKENS;
    let row = (group.x * THREADS + thread) * ROWS;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    // Rows past the end repeat the last one.
    let first = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.part_rows - 1u)) * blocks;

    var sums: array<vec4<f32>, 16>;
    for (var block = 0u; block < blocks; block += 1u) {
        let at = first + block;
        let scales = array<vec2<f32>, ROWS>(
            block_scale(at.x),
            block_scale(at.y),
            block_scale(at.z),
            block_scale(at.w),
        );
        for (var quarter = 0u; quarter < 4u; quarter += 1u) {
            let w = four_rows(at, quarter, scales);
            let col = block * BLOCK + quarter * 8u + (lane & 7u);
            sums[0] += times(token, col, w);
            sums[1] += times(token + 1u, col, w);
            sums[2] += times(token + 2u, col, w);
            sums[3] += times(token + 3u, col, w);
            sums[4] += times(token + 4u, col, w);
            sums[5] += times(token + 5u, col, w);
            sums[6] += times(token + 6u, col, w);
            sums[7] += times(token + 7u, col, w);
            sums[8] += times(token + 8u, col, w);
            sums[9] += times(token + 9u, col, w);
            sums[10] += times(token + 10u, col, w);
            sums[11] += times(token + 11u, col, w);
            sums[12] += times(token + 12u, col, w);
            sums[13] += times(token + 13u, col, w);
            sums[14] += times(token + 14u, col, w);
            sums[15] += times(token + 15u, col, w);
        }
    }

    store(token, row, sums[0]);
    store(token + 1u, row, sums[1]);
    store(token + 2u, row, sums[2]);
    store(token + 3u, row, sums[3]);
    store(token + 4u, row, sums[4]);
    store(token + 5u, row, sums[5]);
    store(token + 6u, row, sums[6]);
    store(token + 7u, row, sums[7]);
    store(token + 8u, row, sums[8]);
    store(token + 9u, row, sums[9]);
    store(token + 10u, row, sums[10]);
    store(token + 11u, row, sums[11]);
    store(token + 12u, row, sums[12]);
    store(token + 13u, row, sums[13]);
    store(token + 14u, row, sums[14]);
    store(token + 15u, row, sums[15]);
}
