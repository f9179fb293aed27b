// `matmul_transposed.wgsl` for the adapters of `matmul_subgroup.wgsl`: eight columns a thread, eight
// outputs at a time in registers; each lane loads one output's dY and broadcasts it.

const THREADS = 8u; // two blocks of columns
const TOKENS = 8u;
const OUTS = 8u;

fn add(sum: Eight, factor: f32, w: Eight) -> Eight {
    return Eight(sum.a + factor * w.a, sum.b + factor * w.b);
}

// `sum` and one token's output `out` of each lane times its row of W, over eight lanes.
fn add_products(sum: Eight, token: u32, out: u32, w: array<Eight, OUTS>) -> Eight {
    let row = params.dy_row + min(token, rows_in_use(params.rows) - 1u);
    let at = row * params.out_features + params.first_out + out;
    let v = select(0.0, dy[at], out < params.part_rows);
    var total = add(sum, subgroupBroadcast(v, 0u), w[0]);
    total = add(total, subgroupBroadcast(v, 1u), w[1]);
    total = add(total, subgroupBroadcast(v, 2u), w[2]);
    total = add(total, subgroupBroadcast(v, 3u), w[3]);
    total = add(total, subgroupBroadcast(v, 4u), w[4]);
    total = add(total, subgroupBroadcast(v, 5u), w[5]);
    total = add(total, subgroupBroadcast(v, 6u), w[6]);
    total = add(total, subgroupBroadcast(v, 7u), w[7]);
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
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let token = group.y * TOKENS;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let quarter = lane & 3u;
    let is_second = lane >= 4u;
    // A second block past the end repeats the first one.
    let first_block = group.x * 2u;
    let second_block = min(first_block + 1u, blocks - 1u);
    let block = select(first_block, second_block, is_second);
    let last_row = params.part_rows - 1u;

    var sum0 = Eight();
    var sum1 = Eight();
    var sum2 = Eight();
    var sum3 = Eight();
    var sum4 = Eight();
    var sum5 = Eight();
    var sum6 = Eight();
    var sum7 = Eight();
    for (var first = 0u; first < params.part_rows; first += OUTS) {
        let out = first + lane;
        let own_row = min(out, last_row) * blocks;
        let one = block_scale(own_row + first_block);
        let two = block_scale(own_row + second_block);
        let w = array<Eight, OUTS>(
            eight_scaled(
                min(first + 0u, last_row) * blocks + block,
                quarter,
                select(subgroupBroadcast(one, 0u), subgroupBroadcast(two, 0u), is_second),
            ),
            eight_scaled(
                min(first + 1u, last_row) * blocks + block,
                quarter,
                select(subgroupBroadcast(one, 1u), subgroupBroadcast(two, 1u), is_second),
            ),
            eight_scaled(
                min(first + 2u, last_row) * blocks + block,
                quarter,
                select(subgroupBroadcast(one, 2u), subgroupBroadcast(two, 2u), is_second),
            ),
            eight_scaled(
                min(first + 3u, last_row) * blocks + block,
                quarter,
                select(subgroupBroadcast(one, 3u), subgroupBroadcast(two, 3u), is_second),
            ),
            eight_scaled(
                min(first + 4u, last_row) * blocks + block,
                quarter,
                select(subgroupBroadcast(one, 4u), subgroupBroadcast(two, 4u), is_second),
            ),
            eight_scaled(
                min(first + 5u, last_row) * blocks + block,
                quarter,
                select(subgroupBroadcast(one, 5u), subgroupBroadcast(two, 5u), is_second),
            ),
            eight_scaled(
                min(first + 6u, last_row) * blocks + block,
                quarter,
                select(subgroupBroadcast(one, 6u), subgroupBroadcast(two, 6u), is_second),
            ),
            eight_scaled(
                min(first + 7u, last_row) * blocks + block,
                quarter,
                select(subgroupBroadcast(one, 7u), subgroupBroadcast(two, 7u), is_second),
            ),
        );
        sum0 = add_products(sum0, token + 0u, out, w);
        sum1 = add_products(sum1, token + 1u, out, w);
        sum2 = add_products(sum2, token + 2u, out, w);
        sum3 = add_products(sum3, token + 3u, out, w);
        sum4 = add_products(sum4, token + 4u, out, w);
        sum5 = add_products(sum5, token + 5u, out, w);
        sum6 = add_products(sum6, token + 6u, out, w);
        sum7 = add_products(sum7, token + 7u, out, w);
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
}
