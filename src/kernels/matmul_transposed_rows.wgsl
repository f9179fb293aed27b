// `matmul_transposed.wgsl` for the adapters of `matmul_rows.wgsl`: eight columns a thread, eight outputs
// at a time, sixteen tokens in registers. `eight_values` is that of `eight_broadcast.wgsl` or of
// `eight_loads.wgsl`, `eight_rows` that of `matmul_transposed_broadcast.wgsl` or of
// `matmul_transposed_loads.wgsl`.

const THREADS = 8u; // two blocks of columns
const TOKENS = 16u;
const OUTS = 8u;

// Where a token's row of dY begins; past the end the last one's.
fn row_of(token: u32) -> u32 {
    let row = params.dy_row + min(token, rows_in_use(params.rows) - 1u);
    return row * params.dy_cols + params.first_out;
}

fn one_value(at: u32) -> f32 {
    return dy[at];
}

// Adds eight outputs of a token, each times its row of W.
fn add(sum: Eight, v: Eight, w: array<Eight, OUTS>) -> Eight {
    var total = sum;
    total.a += v.a.x * w[0].a;
    total.b += v.a.x * w[0].b;
    total.a += v.a.y * w[1].a;
    total.b += v.a.y * w[1].b;
    total.a += v.a.z * w[2].a;
    total.b += v.a.z * w[2].b;
    total.a += v.a.w * w[3].a;
    total.b += v.a.w * w[3].b;
    total.a += v.b.x * w[4].a;
    total.b += v.b.x * w[4].b;
    total.a += v.b.y * w[5].a;
    total.b += v.b.y * w[5].b;
    total.a += v.b.z * w[6].a;
    total.b += v.b.z * w[6].b;
    total.a += v.b.w * w[7].a;
    total.b += v.b.w * w[7].b;
    return total;
}

fn store(token: u32, col: u32, sum: Eight) {
    if token >= rows_in_use(params.rows) {
        return;
    }
    for (var i = 0u; i < 8u; i += 1u) {
        if col + i < params.in_features {
            let at = (params.dx_row + token) * params.in_features + col + i;
            var total = select(sum.b[i & 3u], sum.a[i & 3u], i < 4u);
            if params.accumulate != 0u {
                total += dx[at];
            }
            dx[at] = total;
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let lane = thread;
    let token = group.y * TOKENS;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let quarter = lane & 3u;
    let is_second = lane >= 4u;
    // A second block past the end repeats the first one.
    let first_block = group.x * 2u;
    let second_block = min(first_block + 1u, blocks - 1u);

    let dy0 = row_of(token + 0u);
    let dy1 = row_of(token + 1u);
    let dy2 = row_of(token + 2u);
    let dy3 = row_of(token + 3u);
    let dy4 = row_of(token + 4u);
    let dy5 = row_of(token + 5u);
    let dy6 = row_of(token + 6u);
    let dy7 = row_of(token + 7u);
    let dy8 = row_of(token + 8u);
    let dy9 = row_of(token + 9u);
    let dy10 = row_of(token + 10u);
    let dy11 = row_of(token + 11u);
    let dy12 = row_of(token + 12u);
    let dy13 = row_of(token + 13u);
    let dy14 = row_of(token + 14u);
    let dy15 = row_of(token + 15u);
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
    for (var first = 0u; first < params.part_rows; first += OUTS) {
        let w = eight_rows(first, vec2<u32>(first_block, second_block), quarter, is_second, lane);
        let count = params.part_rows - first;
        sum0 = add(sum0, eight_values(dy0 + first, count, lane), w);
        sum1 = add(sum1, eight_values(dy1 + first, count, lane), w);
        sum2 = add(sum2, eight_values(dy2 + first, count, lane), w);
        sum3 = add(sum3, eight_values(dy3 + first, count, lane), w);
        sum4 = add(sum4, eight_values(dy4 + first, count, lane), w);
        sum5 = add(sum5, eight_values(dy5 + first, count, lane), w);
        sum6 = add(sum6, eight_values(dy6 + first, count, lane), w);
        sum7 = add(sum7, eight_values(dy7 + first, count, lane), w);
        sum8 = add(sum8, eight_values(dy8 + first, count, lane), w);
        sum9 = add(sum9, eight_values(dy9 + first, count, lane), w);
        sum10 = add(sum10, eight_values(dy10 + first, count, lane), w);
        sum11 = add(sum11, eight_values(dy11 + first, count, lane), w);
        sum12 = add(sum12, eight_values(dy12 + first, count, lane), w);
        sum13 = add(sum13, eight_values(dy13 + first, count, lane), w);
        sum14 = add(sum14, eight_values(dy14 + first, count, lane), w);
        sum15 = add(sum15, eight_values(dy15 + first, count, lane), w);
    }

    let col = (first_block * 4u + lane) * 8u;
    store(token + 0u, col, sum0);
    store(token + 1u, col, sum1);
    store(token + 2u, col, sum2);
    store(token + 3u, col, sum3);
    store(token + 4u, col, sum4);
    store(token + 5u, col, sum5);
    store(token + 6u, col, sum6);
    store(token + 7u, col, sum7);
    store(token + 8u, col, sum8);
    store(token + 9u, col, sum9);
    store(token + 10u, col, sum10);
    store(token + 11u, col, sum11);
    store(token + 12u, col, sum12);
    store(token + 13u, col, sum13);
    store(token + 14u, col, sum14);
    store(token + 15u, col, sum15);
}
