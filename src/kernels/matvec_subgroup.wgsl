// `matvec.wgsl` for the adapters of `matmul_subgroup.wgsl`: each lane loads one of eight columns of x
// and broadcasts it to eight rows a thread, or with GATED to four pairs of rows.

const THREADS = 8u;
const PER = 8u; // rows of W a thread
const COLUMNS = 8u; // of A, a workgroup

// Eight columns of four rows of W, times a column of each lane.
fn four_rows(blocks: vec4<u32>, quarter: u32, scales: array<vec2<f32>, 4>, v: f32) -> vec4<f32> {
    let r0 = eight_scaled(blocks.x, quarter, scales[0]);
    let r1 = eight_scaled(blocks.y, quarter, scales[1]);
    let r2 = eight_scaled(blocks.z, quarter, scales[2]);
    let r3 = eight_scaled(blocks.w, quarter, scales[3]);
    var sum = subgroupBroadcast(v, 0u) * vec4<f32>(r0.a.x, r1.a.x, r2.a.x, r3.a.x);
    sum += subgroupBroadcast(v, 1u) * vec4<f32>(r0.a.y, r1.a.y, r2.a.y, r3.a.y);
    sum += subgroupBroadcast(v, 2u) * vec4<f32>(r0.a.z, r1.a.z, r2.a.z, r3.a.z);
    sum += subgroupBroadcast(v, 3u) * vec4<f32>(r0.a.w, r1.a.w, r2.a.w, r3.a.w);
    sum += subgroupBroadcast(v, 4u) * vec4<f32>(r0.b.x, r1.b.x, r2.b.x, r3.b.x);
    sum += subgroupBroadcast(v, 5u) * vec4<f32>(r0.b.y, r1.b.y, r2.b.y, r3.b.y);
    sum += subgroupBroadcast(v, 6u) * vec4<f32>(r0.b.z, r1.b.z, r2.b.z, r3.b.z);
    sum += subgroupBroadcast(v, 7u) * vec4<f32>(r0.b.w, r1.b.w, r2.b.w, r3.b.w);
    return sum;
}

fn scales_of(blocks: vec4<u32>) -> array<vec2<f32>, 4> {
    return array<vec2<f32>, 4>(
        block_scale(blocks.x),
        block_scale(blocks.y),
        block_scale(blocks.z),
        block_scale(blocks.w),
    );
}

// Over the eight lanes.
fn total(v: f32) -> f32 {
    return subgroupBroadcast(v, 0u) + subgroupBroadcast(v, 1u) + subgroupBroadcast(v, 2u)
        + subgroupBroadcast(v, 3u) + subgroupBroadcast(v, 4u) + subgroupBroadcast(v, 5u)
        + subgroupBroadcast(v, 6u) + subgroupBroadcast(v, 7u);
}

// h[j] of one lane times B[j, :] of four rows; past the end of h its 0 meets the last row.
fn times_b(h: f32, j: u32, rows: vec4<u32>) -> vec4<f32> {
    let first = params.up.x + min(j, params.up.y - 1u) * params.out_features + params.first_out;
    let at = rows + first;
    return h * vec4<f32>(parameters[at.x], parameters[at.y], parameters[at.z], parameters[at.w]);
}

// The share of h[j] of eight lanes, from j on.
fn up_of(j: u32, h: f32, rows: vec4<u32>) -> vec4<f32> {
    var sum = times_b(subgroupBroadcast(h, 0u), j, rows);
    sum += times_b(subgroupBroadcast(h, 1u), j + 1u, rows);
    sum += times_b(subgroupBroadcast(h, 2u), j + 2u, rows);
    sum += times_b(subgroupBroadcast(h, 3u), j + 3u, rows);
    sum += times_b(subgroupBroadcast(h, 4u), j + 4u, rows);
    sum += times_b(subgroupBroadcast(h, 5u), j + 5u, rows);
    sum += times_b(subgroupBroadcast(h, 6u), j + 6u, rows);
    sum += times_b(subgroupBroadcast(h, 7u), j + 7u, rows);
    return sum;
}

// A[i, column] for an x[i] of one lane; past the end of x its 0 meets the last row.
fn times_a(x_i: f32, i: u32, down: vec4<u32>, column: u32) -> f32 {
    return x_i * parameters[down.x + min(i, params.in_features - 1u) * down.y + column];
}

// Eight columns of an A, one a lane.
fn columns(group: u32, lane: u32) {
    let down = down_of(group);
    let column = (group - down.w) * COLUMNS + lane;
    let c = min(column, down.y - 1u);
    var sum = 0.0;
    var squares = 0.0;
    for (var i = 0u; i < params.in_features; i += 8u) {
        let col = i + lane;
        var v = one_x(col);
        if NORM {
            squares += v * v;
            v *= norm[col / 4u][col % 4u];
        }
        sum += times_a(subgroupBroadcast(v, 0u), i, down, c);
        sum += times_a(subgroupBroadcast(v, 1u), i + 1u, down, c);
        sum += times_a(subgroupBroadcast(v, 2u), i + 2u, down, c);
        sum += times_a(subgroupBroadcast(v, 3u), i + 3u, down, c);
        sum += times_a(subgroupBroadcast(v, 4u), i + 4u, down, c);
        sum += times_a(subgroupBroadcast(v, 5u), i + 5u, down, c);
        sum += times_a(subgroupBroadcast(v, 6u), i + 6u, down, c);
        sum += times_a(subgroupBroadcast(v, 7u), i + 7u, down, c);
    }
    if NORM {
        sum *= norm_scale(total(squares));
    }
    if column < down.y {
        y[down.z + column] = sum;
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    if group.x >= params.row_groups {
        columns(group.x, lane & 7u);
        return;
    }
    let per = select(PER, PER / 2u, GATED);
    let row = (group.x * THREADS + thread) * per;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    // Rows past the end repeat the last one.
    let four = vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u);
    let last = vec4<u32>(params.part_rows - 1u);
    let low = min(four, last);
    let high = select(min(four + 4u, last), low + params.second, GATED);

    var low_sum = vec4<f32>();
    var high_sum = vec4<f32>();
    var squares = 0.0;
    for (var block = 0u; block < blocks; block += 1u) {
        let low_at = low * blocks + block;
        let high_at = high * blocks + block;
        let low_scales = scales_of(low_at);
        let high_scales = scales_of(high_at);
        for (var quarter = 0u; quarter < 4u; quarter += 1u) {
            let col = block * BLOCK + quarter * 8u + (lane & 7u);
            var v = one_x(col);
            if NORM {
                squares += v * v;
                v *= norm[col / 4u][col % 4u];
            }
            low_sum += four_rows(low_at, quarter, low_scales, v);
            high_sum += four_rows(high_at, quarter, high_scales, v);
        }
    }
    if NORM {
        let scale = norm_scale(total(squares));
        low_sum *= scale;
        high_sum *= scale;
    }
    for (var j = 0u; j < params.up.y; j += 8u) {
        let mine = j + (lane & 7u);
        var h = 0.0;
        if mine < params.up.y {
            h = params.up_scale * up_h(mine);
        }
        low_sum += up_of(j, h, low);
        high_sum += up_of(j, h, high);
    }

    for (var i = 0u; i < 4u; i += 1u) {
        if row + i < params.part_rows {
            store(row + i, low_sum[i], high_sum[i]);
        }
        if !GATED && row + 4u + i < params.part_rows {
            store(row + 4u + i, high_sum[i], 0.0);
        }
    }
}
