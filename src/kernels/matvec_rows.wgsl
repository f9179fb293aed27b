// `matvec.wgsl` for the adapters of `matmul_rows.wgsl`: a thread does eight rows of W, or with GATED four
// pairs of rows. `touch`, `own_x`, `eight_x`, `eight_h` and `all_squares` are those of
// `matvec_broadcast.wgsl` or of `matvec_loads.wgsl`.
//
// A loop over the quarters of a block would be shorter, but llvmpipe masks whatever a loop carries, and
// could not keep the words of a block from one quarter to the next.

const THREADS = 8u;
const PER = 8u; // rows of W a thread
const COLUMNS = 8u; // of A, a workgroup

// Four rows of W, in one of their blocks.
struct Rows {
    blocks: vec4<u32>,
    // 16 bytes of each.
    w0: vec4<u32>,
    w1: vec4<u32>,
    w2: vec4<u32>,
    w3: vec4<u32>,
    products: vec4<f32>, // with x, before their scales
}

// Before the first quarter. Chromium leaves a `var` without a value as the last round of a loop left it.
fn rows_at(blocks: vec4<u32>) -> Rows {
    let none = vec4<u32>();
    return Rows(blocks, none, none, none, none, vec4<f32>());
}

// Adds the products of a quarter, which are taken in order.
fn add(rows: Rows, quarter: u32, v: Eight) -> Rows {
    var sum = rows;
    let blocks = rows.blocks;
    if quarter % quarters_together() == 0u {
        sum.w0 = sixteen_bytes(blocks.x, quarter);
        sum.w1 = sixteen_bytes(blocks.y, quarter);
        sum.w2 = sixteen_bytes(blocks.z, quarter);
        sum.w3 = sixteen_bytes(blocks.w, quarter);
    }
    let r0 = eight_of(sum.w0, blocks.x, quarter);
    let r1 = eight_of(sum.w1, blocks.y, quarter);
    let r2 = eight_of(sum.w2, blocks.z, quarter);
    let r3 = eight_of(sum.w3, blocks.w, quarter);
    sum.products += v.a.x * vec4<f32>(r0.a.x, r1.a.x, r2.a.x, r3.a.x);
    sum.products += v.a.y * vec4<f32>(r0.a.y, r1.a.y, r2.a.y, r3.a.y);
    sum.products += v.a.z * vec4<f32>(r0.a.z, r1.a.z, r2.a.z, r3.a.z);
    sum.products += v.a.w * vec4<f32>(r0.a.w, r1.a.w, r2.a.w, r3.a.w);
    sum.products += v.b.x * vec4<f32>(r0.b.x, r1.b.x, r2.b.x, r3.b.x);
    sum.products += v.b.y * vec4<f32>(r0.b.y, r1.b.y, r2.b.y, r3.b.y);
    sum.products += v.b.z * vec4<f32>(r0.b.z, r1.b.z, r2.b.z, r3.b.z);
    sum.products += v.b.w * vec4<f32>(r0.b.w, r1.b.w, r2.b.w, r3.b.w);
    return sum;
}

// The products, given the sum of x over the columns of the block.
fn scaled(rows: Rows, sum: f32) -> vec4<f32> {
    let r0 = block_scale(rows.blocks.x);
    let r1 = block_scale(rows.blocks.y);
    let r2 = block_scale(rows.blocks.z);
    let r3 = block_scale(rows.blocks.w);
    return rows.products * vec4<f32>(r0.x, r1.x, r2.x, r3.x) + sum * vec4<f32>(r0.y, r1.y, r2.y, r3.y);
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

// x[i] and the seven after it times a column.
fn eight_times_a(v: Eight, i: u32, down: vec4<u32>, column: u32) -> f32 {
    return times_a(v.a.x, i, down, column)
        + times_a(v.a.y, i + 1u, down, column)
        + times_a(v.a.z, i + 2u, down, column)
        + times_a(v.a.w, i + 3u, down, column)
        + times_a(v.b.x, i + 4u, down, column)
        + times_a(v.b.y, i + 5u, down, column)
        + times_a(v.b.z, i + 6u, down, column)
        + times_a(v.b.w, i + 7u, down, column);
}

// Eight columns of an A, one a lane.
fn columns(group: u32, lane: u32) {
    let down = down_of(group);
    let column = (group - down.w) * COLUMNS + lane;
    let c = min(column, down.y - 1u);
    var sum = 0.0;
    for (var block = 0u; block * BLOCK < params.in_features; block += 1u) {
        let i = block * BLOCK;
        let own = own_x(block, lane);
        sum += eight_times_a(eight_x(own, block, 0u), i, down, c);
        sum += eight_times_a(eight_x(own, block, 1u), i + 8u, down, c);
        sum += eight_times_a(eight_x(own, block, 2u), i + 16u, down, c);
        sum += eight_times_a(eight_x(own, block, 3u), i + 24u, down, c);
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

    var touched = touch(group.x * THREADS * per, THREADS * per, thread);
    if GATED {
        touched |= touch(group.x * THREADS * per + params.second, THREADS * per, thread);
    }
    if params.in_features == 0u { // never
        y[thread] = f32(touched);
    }

    var low_sum = vec4<f32>();
    var high_sum = vec4<f32>();
    for (var block = 0u; block < blocks; block += 1u) {
        var low_rows = rows_at(low * blocks + block);
        var high_rows = rows_at(high * blocks + block);
        let own = own_x(block, thread);
        let x0 = eight_x(own, block, 0u);
        low_rows = add(low_rows, 0u, x0);
        high_rows = add(high_rows, 0u, x0);
        let x1 = eight_x(own, block, 1u);
        low_rows = add(low_rows, 1u, x1);
        high_rows = add(high_rows, 1u, x1);
        let x2 = eight_x(own, block, 2u);
        low_rows = add(low_rows, 2u, x2);
        high_rows = add(high_rows, 2u, x2);
        let x3 = eight_x(own, block, 3u);
        low_rows = add(low_rows, 3u, x3);
        high_rows = add(high_rows, 3u, x3);
        let sums = x0.a + x0.b + x1.a + x1.b + x2.a + x2.b + x3.a + x3.b;
        let sum = sums.x + sums.y + sums.z + sums.w;
        low_sum += scaled(low_rows, sum);
        high_sum += scaled(high_rows, sum);
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
