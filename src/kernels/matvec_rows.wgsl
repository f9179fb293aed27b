// `matvec.wgsl` for the adapters of `matmul_rows.wgsl`: a thread does eight rows of W, or with GATED four
// pairs of rows. `eight_x`, `eight_h` and `all_squares` are those of `matvec_broadcast.wgsl` or of
// `matvec_loads.wgsl`.

const THREADS = 8u;
const PER = 8u; // rows of W a thread
const COLUMNS = 8u; // of A, a workgroup

// Eight columns of four rows of W, before their scales, times those of x.
fn four_rows(blocks: vec4<u32>, quarter: u32, v: Eight) -> vec4<f32> {
    let r0 = eight_raw(blocks.x, quarter);
    let r1 = eight_raw(blocks.y, quarter);
    let r2 = eight_raw(blocks.z, quarter);
    let r3 = eight_raw(blocks.w, quarter);
    var sum = v.a.x * vec4<f32>(r0.a.x, r1.a.x, r2.a.x, r3.a.x);
    sum += v.a.y * vec4<f32>(r0.a.y, r1.a.y, r2.a.y, r3.a.y);
    sum += v.a.z * vec4<f32>(r0.a.z, r1.a.z, r2.a.z, r3.a.z);
    sum += v.a.w * vec4<f32>(r0.a.w, r1.a.w, r2.a.w, r3.a.w);
    sum += v.b.x * vec4<f32>(r0.b.x, r1.b.x, r2.b.x, r3.b.x);
    sum += v.b.y * vec4<f32>(r0.b.y, r1.b.y, r2.b.y, r3.b.y);
    sum += v.b.z * vec4<f32>(r0.b.z, r1.b.z, r2.b.z, r3.b.z);
    sum += v.b.w * vec4<f32>(r0.b.w, r1.b.w, r2.b.w, r3.b.w);
    return sum;
}

// A block's products with four rows, given those before the scales and the sum of x over its columns.
fn scaled(blocks: vec4<u32>, products: vec4<f32>, sum: f32) -> vec4<f32> {
    let r0 = block_scale(blocks.x);
    let r1 = block_scale(blocks.y);
    let r2 = block_scale(blocks.z);
    let r3 = block_scale(blocks.w);
    return products * vec4<f32>(r0.x, r1.x, r2.x, r3.x) + sum * vec4<f32>(r0.y, r1.y, r2.y, r3.y);
}

// h[j] times B[j, :] of four rows; past the end of h its 0 meets the last row.
fn times_b(h: f32, j: u32, rows: vec4<u32>) -> vec4<f32> {
    let first = params.up.x + min(j, params.up.y - 1u) * params.out_features + params.first_out;
    let at = rows + first;
    return h * vec4<f32>(parameters[at.x], parameters[at.y], parameters[at.z], parameters[at.w]);
}

// The share of h[j] and the seven after it.
fn up_of(j: u32, h: Eight, rows: vec4<u32>) -> vec4<f32> {
    var sum = times_b(h.a.x, j, rows);
    sum += times_b(h.a.y, j + 1u, rows);
    sum += times_b(h.a.z, j + 2u, rows);
    sum += times_b(h.a.w, j + 3u, rows);
    sum += times_b(h.b.x, j + 4u, rows);
    sum += times_b(h.b.y, j + 5u, rows);
    sum += times_b(h.b.z, j + 6u, rows);
    sum += times_b(h.b.w, j + 7u, rows);
    return sum;
}

// x[i] times A[i, column]; past the end of x its 0 meets the last row.
fn times_a(x_i: f32, i: u32, down: vec4<u32>, column: u32) -> f32 {
    return x_i * parameters[down.x + min(i, params.in_features - 1u) * down.y + column];
}

// Eight columns of an A, one a lane.
fn columns(group: u32, lane: u32) {
    let down = down_of(group);
    let column = (group - down.w) * COLUMNS + lane;
    let c = min(column, down.y - 1u);
    var sum = 0.0;
    for (var i = 0u; i < params.in_features; i += 8u) {
        let v = eight_x(i, lane);
        sum += times_a(v.a.x, i, down, c);
        sum += times_a(v.a.y, i + 1u, down, c);
        sum += times_a(v.a.z, i + 2u, down, c);
        sum += times_a(v.a.w, i + 3u, down, c);
        sum += times_a(v.b.x, i + 4u, down, c);
        sum += times_a(v.b.y, i + 5u, down, c);
        sum += times_a(v.b.z, i + 6u, down, c);
        sum += times_a(v.b.w, i + 7u, down, c);
    }
    if NORM {
        sum *= norm_scale(all_squares());
    }
    if column < down.y {
        y[down.z + column] = sum;
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if group.x >= params.row_groups {
        columns(group.x, thread);
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
    for (var block = 0u; block < blocks; block += 1u) {
        let low_at = low * blocks + block;
        let high_at = high * blocks + block;
        var low_products = vec4<f32>();
        var high_products = vec4<f32>();
        var sums = vec4<f32>();
        for (var quarter = 0u; quarter < 4u; quarter += 1u) {
            let v = eight_x(block * BLOCK + quarter * 8u, thread);
            low_products += four_rows(low_at, quarter, v);
            high_products += four_rows(high_at, quarter, v);
            sums += v.a + v.b;
        }
        let sum = sums.x + sums.y + sums.z + sums.w;
        low_sum += scaled(low_at, low_products, sum);
        high_sum += scaled(high_at, high_products, sum);
    }
    if NORM {
        let scale = norm_scale(all_squares());
        low_sum *= scale;
        high_sum *= scale;
    }
    for (var j = 0u; j < params.up.y; j += 8u) {
        let h = eight_h(j, thread);
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
