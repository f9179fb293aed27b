// Eight columns of eight rows of W for `matmul_transposed_rows.wgsl`, in the order that
// `eight_quads.wgsl` gives each lane.

fn weights_of(row: u32, columns: vec2<u32>, quarter: u32, is_second: bool) -> Eight {
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let block = select(columns.x, columns.y, is_second);
    return eight_weights(min(row, params.part_rows - 1u) * blocks + block, quarter);
}

fn eight_rows(
    first: u32,
    columns: vec2<u32>, // blocks
    quarter: u32,
    is_second: bool,
    lane: u32,
) -> array<Eight, OUTS> {
    let own = lane & 3u;
    return array<Eight, OUTS>(
        weights_of(first + (0u ^ own), columns, quarter, is_second),
        weights_of(first + (1u ^ own), columns, quarter, is_second),
        weights_of(first + (2u ^ own), columns, quarter, is_second),
        weights_of(first + (3u ^ own), columns, quarter, is_second),
        weights_of(first + 4u + (0u ^ own), columns, quarter, is_second),
        weights_of(first + 4u + (1u ^ own), columns, quarter, is_second),
        weights_of(first + 4u + (2u ^ own), columns, quarter, is_second),
        weights_of(first + 4u + (3u ^ own), columns, quarter, is_second),
    );
}
