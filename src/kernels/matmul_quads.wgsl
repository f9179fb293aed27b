// `matmul_rows.wgsl` for adapters with subgroups of four whose compiler keeps little in registers and for
// whom a load, which they do lane by lane, costs as much as thirty products: four lanes load tokens for one
// another, a thread does sixteen rows of W, and a row's eight products are added up before its sum is
// touched. Nothing but the blocks is a loop, since every turn of one costs a blend of all that it carries.
const EIGHTS = 2u; // of rows, a thread
alias Sums = array<Eight, TOKENS * EIGHTS>;

fn weights(blocks: array<u32, ROWS>, scales: array<vec2<f32>, ROWS>, quarter: u32) -> array<Eight, ROWS> {
    return array<Eight, ROWS>(
        eight_scaled(blocks[0], quarter, scales[0]),
        eight_scaled(blocks[1], quarter, scales[1]),
        eight_scaled(blocks[2], quarter, scales[2]),
        eight_scaled(blocks[3], quarter, scales[3]),
        eight_scaled(blocks[4], quarter, scales[4]),
        eight_scaled(blocks[5], quarter, scales[5]),
        eight_scaled(blocks[6], quarter, scales[6]),
        eight_scaled(blocks[7], quarter, scales[7]),
    );
}

fn scales_of(blocks: array<u32, ROWS>) -> array<vec2<f32>, ROWS> {
    return array<vec2<f32>, ROWS>(
        block_scale(blocks[0]),
        block_scale(blocks[1]),
        block_scale(blocks[2]),
        block_scale(blocks[3]),
        block_scale(blocks[4]),
        block_scale(blocks[5]),
        block_scale(blocks[6]),
        block_scale(blocks[7]),
    );
}

// The first blocks of eight rows of W. Rows past the end repeat the last one.
fn blocks_of(row: u32, blocks: u32) -> array<u32, ROWS> {
    let last = params.part_rows - 1u;
    return array<u32, ROWS>(
        min(row + 0u, last) * blocks,
        min(row + 1u, last) * blocks,
        min(row + 2u, last) * blocks,
        min(row + 3u, last) * blocks,
        min(row + 4u, last) * blocks,
        min(row + 5u, last) * blocks,
        min(row + 6u, last) * blocks,
        min(row + 7u, last) * blocks,
    );
}

fn moved(blocks: array<u32, ROWS>, by: u32) -> array<u32, ROWS> {
    return array<u32, ROWS>(
        blocks[0] + by,
        blocks[1] + by,
        blocks[2] + by,
        blocks[3] + by,
        blocks[4] + by,
        blocks[5] + by,
        blocks[6] + by,
        blocks[7] + by,
    );
}

// Adds the products of eight columns of eight tokens, which stand at `first` among the sums.
fn add_tokens(
    sums: ptr<function, Sums>,
    first: u32,
    tokens: array<Eight, 8>,
    low: array<Eight, ROWS>,
    high: array<Eight, ROWS>,
) {
    (*sums)[first + 0u] = add_products((*sums)[first + 0u], tokens[0], low);
    (*sums)[first + 1u] = add_products((*sums)[first + 1u], tokens[0], high);
    (*sums)[first + 2u] = add_products((*sums)[first + 2u], tokens[1], low);
    (*sums)[first + 3u] = add_products((*sums)[first + 3u], tokens[1], high);
    (*sums)[first + 4u] = add_products((*sums)[first + 4u], tokens[2], low);
    (*sums)[first + 5u] = add_products((*sums)[first + 5u], tokens[2], high);
    (*sums)[first + 6u] = add_products((*sums)[first + 6u], tokens[3], low);
    (*sums)[first + 7u] = add_products((*sums)[first + 7u], tokens[3], high);
    (*sums)[first + 8u] = add_products((*sums)[first + 8u], tokens[4], low);
    (*sums)[first + 9u] = add_products((*sums)[first + 9u], tokens[4], high);
    (*sums)[first + 10u] = add_products((*sums)[first + 10u], tokens[5], low);
    (*sums)[first + 11u] = add_products((*sums)[first + 11u], tokens[5], high);
    (*sums)[first + 12u] = add_products((*sums)[first + 12u], tokens[6], low);
    (*sums)[first + 13u] = add_products((*sums)[first + 13u], tokens[6], high);
    (*sums)[first + 14u] = add_products((*sums)[first + 14u], tokens[7], low);
    (*sums)[first + 15u] = add_products((*sums)[first + 15u], tokens[7], high);
}

// Adds the products of a quarter of the rows' blocks.
fn columns(
    sums: ptr<function, Sums>,
    tokens: vec4<u32>, // where the lane's own begin in X
    block: u32,
    quarter: u32,
    low: array<Eight, ROWS>,
    high: array<Eight, ROWS>,
    lane: u32,
) {
    let col = block * BLOCK + quarter * 8u;
    let count = max(col, params.in_features) - col;
    let at = tokens + col;
    let first = exchanged(eight_values(at.x, count, lane), eight_values(at.y, count, lane));
    add_tokens(sums, 0u, first, low, high);
    let second = exchanged(eight_values(at.z, count, lane), eight_values(at.w, count, lane));
    add_tokens(sums, 8u * EIGHTS, second, low, high);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.y * TOKENS;
    let row = (group.x * LANES + lane) * ROWS * EIGHTS;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let own = token + lane;
    let tokens = vec4<u32>(row_of(own), row_of(own + 4u), row_of(own + 8u), row_of(own + 12u));
    let first_low = blocks_of(row, blocks);
    let first_high = blocks_of(row + ROWS, blocks);
    var sums: Sums;
    for (var block = 0u; block < blocks; block += 1u) {
        let at_low = moved(first_low, block);
        let at_high = moved(first_high, block);
        let low = scales_of(at_low);
        let high = scales_of(at_high);
        columns(
            &sums,
            tokens,
            block,
            0u,
            weights(at_low, low, 0u),
            weights(at_high, high, 0u),
            lane,
        );
        columns(
            &sums,
            tokens,
            block,
            1u,
            weights(at_low, low, 1u),
            weights(at_high, high, 1u),
            lane,
        );
        columns(
            &sums,
            tokens,
            block,
            2u,
            weights(at_low, low, 2u),
            weights(at_high, high, 2u),
            lane,
        );
        columns(
            &sums,
            tokens,
            block,
            3u,
            weights(at_low, low, 3u),
            weights(at_high, high, 3u),
            lane,
        );
    }

    let order = row_order(lane);
    store(token + 0u + order.x, row, sums[0]);
    store(token + 0u + order.x, row + ROWS, sums[1]);
    store(token + 0u + order.y, row, sums[2]);
    store(token + 0u + order.y, row + ROWS, sums[3]);
    store(token + 0u + order.z, row, sums[4]);
    store(token + 0u + order.z, row + ROWS, sums[5]);
    store(token + 0u + order.w, row, sums[6]);
    store(token + 0u + order.w, row + ROWS, sums[7]);
    store(token + 4u + order.x, row, sums[8]);
    store(token + 4u + order.x, row + ROWS, sums[9]);
    store(token + 4u + order.y, row, sums[10]);
    store(token + 4u + order.y, row + ROWS, sums[11]);
    store(token + 4u + order.z, row, sums[12]);
    store(token + 4u + order.z, row + ROWS, sums[13]);
    store(token + 4u + order.w, row, sums[14]);
    store(token + 4u + order.w, row + ROWS, sums[15]);
    store(token + 8u + order.x, row, sums[16]);
    store(token + 8u + order.x, row + ROWS, sums[17]);
    store(token + 8u + order.y, row, sums[18]);
    store(token + 8u + order.y, row + ROWS, sums[19]);
    store(token + 8u + order.z, row, sums[20]);
    store(token + 8u + order.z, row + ROWS, sums[21]);
    store(token + 8u + order.w, row, sums[22]);
    store(token + 8u + order.w, row + ROWS, sums[23]);
    store(token + 12u + order.x, row, sums[24]);
    store(token + 12u + order.x, row + ROWS, sums[25]);
    store(token + 12u + order.y, row, sums[26]);
    store(token + 12u + order.y, row + ROWS, sums[27]);
    store(token + 12u + order.z, row, sums[28]);
    store(token + 12u + order.z, row + ROWS, sums[29]);
    store(token + 12u + order.w, row, sums[30]);
    store(token + 12u + order.w, row + ROWS, sums[31]);
}
