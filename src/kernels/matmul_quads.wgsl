// `matmul_rows.wgsl` for adapters with subgroups of four whose compiler keeps little in registers and for
// whom a load, which they do lane by lane, costs as much as thirty products: four lanes load for one
// another, and a row's eight products are added up before its sum is touched. Nothing but the blocks is a
// loop, since every turn of one costs a blend of all that it carries.
// Four weights in the order of `eight_values`.
fn turned(v: vec4<f32>, lane: u32) -> vec4<f32> {
    let once = select(v, v.yxwz, (lane & 1u) != 0u);
    return select(once, once.zwxy, (lane & 2u) != 0u);
}

fn product(v: Eight, w: Eight) -> f32 {
    return dot(v.a, w.a) + dot(v.b, w.b);
}

// Adds eight rows of W times eight columns of a token.
fn add(sum: Eight, v: Eight, w: array<Eight, 8>) -> Eight {
    return Eight(
        sum.a + vec4<f32>(product(v, w[0]), product(v, w[1]), product(v, w[2]), product(v, w[3])),
        sum.b + vec4<f32>(product(v, w[4]), product(v, w[5]), product(v, w[6]), product(v, w[7])),
    );
}

fn weights(block: u32, quarter: u32, scale: vec2<f32>, lane: u32) -> Eight {
    let w = eight_scaled(block, quarter, scale);
    return Eight(turned(w.a, lane), turned(w.b, lane));
}

// Adds the products of a quarter of the rows' blocks.
fn columns(
    sums: ptr<function, array<Eight, TOKENS>>,
    rows: array<u32, TOKENS>,
    blocks: array<u32, ROWS>,
    scales: array<vec2<f32>, ROWS>,
    col: u32,
    quarter: u32,
    lane: u32,
) {
    let w = array<Eight, ROWS>(
        weights(blocks[0], quarter, scales[0], lane),
        weights(blocks[1], quarter, scales[1], lane),
        weights(blocks[2], quarter, scales[2], lane),
        weights(blocks[3], quarter, scales[3], lane),
        weights(blocks[4], quarter, scales[4], lane),
        weights(blocks[5], quarter, scales[5], lane),
        weights(blocks[6], quarter, scales[6], lane),
        weights(blocks[7], quarter, scales[7], lane),
    );
    let at = col + quarter * 8u;
    let count = max(at, params.in_features) - at;
    (*sums)[0] = add((*sums)[0], eight_values(rows[0] + at, count, lane), w);
    (*sums)[1] = add((*sums)[1], eight_values(rows[1] + at, count, lane), w);
    (*sums)[2] = add((*sums)[2], eight_values(rows[2] + at, count, lane), w);
    (*sums)[3] = add((*sums)[3], eight_values(rows[3] + at, count, lane), w);
    (*sums)[4] = add((*sums)[4], eight_values(rows[4] + at, count, lane), w);
    (*sums)[5] = add((*sums)[5], eight_values(rows[5] + at, count, lane), w);
    (*sums)[6] = add((*sums)[6], eight_values(rows[6] + at, count, lane), w);
    (*sums)[7] = add((*sums)[7], eight_values(rows[7] + at, count, lane), w);
    (*sums)[8] = add((*sums)[8], eight_values(rows[8] + at, count, lane), w);
    (*sums)[9] = add((*sums)[9], eight_values(rows[9] + at, count, lane), w);
    (*sums)[10] = add((*sums)[10], eight_values(rows[10] + at, count, lane), w);
    (*sums)[11] = add((*sums)[11], eight_values(rows[11] + at, count, lane), w);
    (*sums)[12] = add((*sums)[12], eight_values(rows[12] + at, count, lane), w);
    (*sums)[13] = add((*sums)[13], eight_values(rows[13] + at, count, lane), w);
    (*sums)[14] = add((*sums)[14], eight_values(rows[14] + at, count, lane), w);
    (*sums)[15] = add((*sums)[15], eight_values(rows[15] + at, count, lane), w);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = group.y * TOKENS;
    let row = (group.x * THREADS + thread) * ROWS;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let rows = array<u32, TOKENS>(
        row_of(token + 0u),
        row_of(token + 1u),
        row_of(token + 2u),
        row_of(token + 3u),
        row_of(token + 4u),
        row_of(token + 5u),
        row_of(token + 6u),
        row_of(token + 7u),
        row_of(token + 8u),
        row_of(token + 9u),
        row_of(token + 10u),
        row_of(token + 11u),
        row_of(token + 12u),
        row_of(token + 13u),
        row_of(token + 14u),
        row_of(token + 15u),
    );
    // Rows past the end repeat the last one.
    let last = params.part_rows - 1u;
    let firsts = array<u32, ROWS>(
        min(row + 0u, last) * blocks,
        min(row + 1u, last) * blocks,
        min(row + 2u, last) * blocks,
        min(row + 3u, last) * blocks,
        min(row + 4u, last) * blocks,
        min(row + 5u, last) * blocks,
        min(row + 6u, last) * blocks,
        min(row + 7u, last) * blocks,
    );
    var sums: array<Eight, TOKENS>;
    for (var block = 0u; block < blocks; block += 1u) {
        let at = array<u32, ROWS>(
            firsts[0] + block,
            firsts[1] + block,
            firsts[2] + block,
            firsts[3] + block,
            firsts[4] + block,
            firsts[5] + block,
            firsts[6] + block,
            firsts[7] + block,
        );
        let scales = array<vec2<f32>, ROWS>(
            block_scale(at[0]),
            block_scale(at[1]),
            block_scale(at[2]),
            block_scale(at[3]),
            block_scale(at[4]),
            block_scale(at[5]),
            block_scale(at[6]),
            block_scale(at[7]),
        );
        columns(&sums, rows, at, scales, block * BLOCK, 0u, thread);
        columns(&sums, rows, at, scales, block * BLOCK, 1u, thread);
        columns(&sums, rows, at, scales, block * BLOCK, 2u, thread);
        columns(&sums, rows, at, scales, block * BLOCK, 3u, thread);
    }

    store(token + 0u, row, sums[0]);
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
