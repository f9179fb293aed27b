// Eight columns of eight rows of W for `matmul_transposed_rows.wgsl`: each of eight lanes loads one row's
// scales, of the block of columns that the first four lanes have and of that of the others, and
// broadcasts them.

fn eight_rows(
    first: u32,
    columns: vec2<u32>, // blocks
    quarter: u32,
    is_second: bool,
    lane: u32,
) -> array<Eight, OUTS> {
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let last = params.part_rows - 1u;
    let block = select(columns.x, columns.y, is_second);
    let own = min(first + lane, last) * blocks;
    let one = block_scale(own + columns.x);
    let two = block_scale(own + columns.y);
    return array<Eight, OUTS>(
        eight_scaled(
            min(first + 0u, last) * blocks + block,
            quarter,
            select(subgroupBroadcast(one, 0u), subgroupBroadcast(two, 0u), is_second),
        ),
        eight_scaled(
            min(first + 1u, last) * blocks + block,
            quarter,
            select(subgroupBroadcast(one, 1u), subgroupBroadcast(two, 1u), is_second),
        ),
        eight_scaled(
            min(first + 2u, last) * blocks + block,
            quarter,
            select(subgroupBroadcast(one, 2u), subgroupBroadcast(two, 2u), is_second),
        ),
        eight_scaled(
            min(first + 3u, last) * blocks + block,
            quarter,
            select(subgroupBroadcast(one, 3u), subgroupBroadcast(two, 3u), is_second),
        ),
        eight_scaled(
            min(first + 4u, last) * blocks + block,
            quarter,
            select(subgroupBroadcast(one, 4u), subgroupBroadcast(two, 4u), is_second),
        ),
        eight_scaled(
            min(first + 5u, last) * blocks + block,
            quarter,
            select(subgroupBroadcast(one, 5u), subgroupBroadcast(two, 5u), is_second),
        ),
        eight_scaled(
            min(first + 6u, last) * blocks + block,
            quarter,
            select(subgroupBroadcast(one, 6u), subgroupBroadcast(two, 6u), is_second),
        ),
        eight_scaled(
            min(first + 7u, last) * blocks + block,
            quarter,
            select(subgroupBroadcast(one, 7u), subgroupBroadcast(two, 7u), is_second),
        ),
    );
}
