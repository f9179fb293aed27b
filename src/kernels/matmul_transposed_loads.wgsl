// Eight columns of eight rows of W for `matmul_transposed_rows.wgsl`, each thread for itself; the twin is
// `matmul_transposed_broadcast.wgsl`.

fn eight_rows(
    first: u32,
    columns: vec2<u32>, // blocks
    quarter: u32,
    is_second: bool,
    lane: u32,
) -> array<Eight, OUTS> {
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let last = vec4<u32>(params.part_rows - 1u);
    let block = select(columns.x, columns.y, is_second);
    let rows = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
    let low = min(rows, last) * blocks + block;
    let high = min(rows + 4u, last) * blocks + block;
    return array<Eight, OUTS>(
        eight_weights(low.x, quarter),
        eight_weights(low.y, quarter),
        eight_weights(low.z, quarter),
        eight_weights(low.w, quarter),
        eight_weights(high.x, quarter),
        eight_weights(high.y, quarter),
        eight_weights(high.z, quarter),
        eight_weights(high.w, quarter),
    );
}
