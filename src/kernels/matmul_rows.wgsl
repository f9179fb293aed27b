// `matmul.wgsl` for adapters where a load or a barrier costs far more than arithmetic, as for software
// ones, which gather lane by lane: no workgroup memory; a thread does eight rows of W by sixteen tokens
// in registers, eight columns at a time. `eight_values` is that of `eight_broadcast.wgsl` or of
// `eight_loads.wgsl`.
// Eight columns of four rows of W, column by column.
fn four_rows(blocks: vec4<u32>, quarter: u32, scales: array<vec2<f32>, 4>) -> array<vec4<f32>, 8> {
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

fn scales_of(blocks: vec4<u32>) -> array<vec2<f32>, 4> {
    return array<vec2<f32>, 4>(
        block_scale(blocks.x),
        block_scale(blocks.y),
        block_scale(blocks.z),
        block_scale(blocks.w),
    );
}

// Adds eight rows of W times eight columns of a token.
fn add(sum: Eight, v: Eight, low: array<vec4<f32>, 8>, high: array<vec4<f32>, 8>) -> Eight {
    var total = sum;
    total.a += v.a.x * low[0];
    total.b += v.a.x * high[0];
    total.a += v.a.y * low[1];
    total.b += v.a.y * high[1];
    total.a += v.a.z * low[2];
    total.b += v.a.z * high[2];
    total.a += v.a.w * low[3];
    total.b += v.a.w * high[3];
    total.a += v.b.x * low[4];
    total.b += v.b.x * high[4];
    total.a += v.b.y * low[5];
    total.b += v.b.y * high[5];
    total.a += v.b.z * low[6];
    total.b += v.b.z * high[6];
    total.a += v.b.w * low[7];
    total.b += v.b.w * high[7];
    return total;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let lane = thread;
    let token = group.y * TOKENS;
    let row = (group.x * THREADS + thread) * ROWS;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    // Rows past the end repeat the last one.
    let last = vec4<u32>(params.part_rows - 1u);
    let first_low = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), last) * blocks;
    let first_high = min(vec4<u32>(row) + vec4<u32>(4u, 5u, 6u, 7u), last) * blocks;

    let x0 = row_of(token + 0u);
    let x1 = row_of(token + 1u);
    let x2 = row_of(token + 2u);
    let x3 = row_of(token + 3u);
    let x4 = row_of(token + 4u);
    let x5 = row_of(token + 5u);
    let x6 = row_of(token + 6u);
    let x7 = row_of(token + 7u);
    let x8 = row_of(token + 8u);
    let x9 = row_of(token + 9u);
    let x10 = row_of(token + 10u);
    let x11 = row_of(token + 11u);
    let x12 = row_of(token + 12u);
    let x13 = row_of(token + 13u);
    let x14 = row_of(token + 14u);
    let x15 = row_of(token + 15u);
    var sum0 = Eight();
    var sum1 = Eight();
    var sum2 = Eight();
    var sum3 = Eight();
    var sum4 = Eight();
    var sum5 = Eight();
    var sum6 = Eight();
    var sum7 = Eight();
    var sum8 = Eight();
    var sum9 = Eight();
    var sum10 = Eight();
    var sum11 = Eight();
    var sum12 = Eight();
    var sum13 = Eight();
    var sum14 = Eight();
    var sum15 = Eight();
    for (var block = 0u; block < blocks; block += 1u) {
        let at_low = first_low + block;
        let at_high = first_high + block;
        let scales_low = scales_of(at_low);
        let scales_high = scales_of(at_high);
        for (var quarter = 0u; quarter < 4u; quarter += 1u) {
            let low = four_rows(at_low, quarter, scales_low);
            let high = four_rows(at_high, quarter, scales_high);
            let col = block * BLOCK + quarter * 8u;
            let count = max(col, params.in_features) - col;
            sum0 = add(sum0, eight_values(x0 + col, count, lane), low, high);
            sum1 = add(sum1, eight_values(x1 + col, count, lane), low, high);
            sum2 = add(sum2, eight_values(x2 + col, count, lane), low, high);
            sum3 = add(sum3, eight_values(x3 + col, count, lane), low, high);
            sum4 = add(sum4, eight_values(x4 + col, count, lane), low, high);
            sum5 = add(sum5, eight_values(x5 + col, count, lane), low, high);
            sum6 = add(sum6, eight_values(x6 + col, count, lane), low, high);
            sum7 = add(sum7, eight_values(x7 + col, count, lane), low, high);
            sum8 = add(sum8, eight_values(x8 + col, count, lane), low, high);
            sum9 = add(sum9, eight_values(x9 + col, count, lane), low, high);
            sum10 = add(sum10, eight_values(x10 + col, count, lane), low, high);
            sum11 = add(sum11, eight_values(x11 + col, count, lane), low, high);
            sum12 = add(sum12, eight_values(x12 + col, count, lane), low, high);
            sum13 = add(sum13, eight_values(x13 + col, count, lane), low, high);
            sum14 = add(sum14, eight_values(x14 + col, count, lane), low, high);
            sum15 = add(sum15, eight_values(x15 + col, count, lane), low, high);
        }
    }

    store(token + 0u, row, sum0);
    store(token + 1u, row, sum1);
    store(token + 2u, row, sum2);
    store(token + 3u, row, sum3);
    store(token + 4u, row, sum4);
    store(token + 5u, row, sum5);
    store(token + 6u, row, sum6);
    store(token + 7u, row, sum7);
    store(token + 8u, row, sum8);
    store(token + 9u, row, sum9);
    store(token + 10u, row, sum10);
    store(token + 11u, row, sum11);
    store(token + 12u, row, sum12);
    store(token + 13u, row, sum13);
    store(token + 14u, row, sum14);
    store(token + 15u, row, sum15);
}
