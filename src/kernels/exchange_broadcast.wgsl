// Eight rows that eight lanes load for one another. The twin is `exchange_quads.wgsl`.
const LANES = 8u;

// Which of the eight rows a lane has in the first four places; in the others the ones four further.
fn row_order(lane: u32) -> vec4<u32> {
    return vec4<u32>(0u, 1u, 2u, 3u);
}

// From what a lane has loaded of row `lane`; nothing of row `lane + 4` is needed.
fn exchanged(own: Eight, unneeded: Eight) -> array<Eight, 8> {
    return array<Eight, 8>(
        Eight(subgroupBroadcast(own.a, 0u), subgroupBroadcast(own.b, 0u)),
        Eight(subgroupBroadcast(own.a, 1u), subgroupBroadcast(own.b, 1u)),
        Eight(subgroupBroadcast(own.a, 2u), subgroupBroadcast(own.b, 2u)),
        Eight(subgroupBroadcast(own.a, 3u), subgroupBroadcast(own.b, 3u)),
        Eight(subgroupBroadcast(own.a, 4u), subgroupBroadcast(own.b, 4u)),
        Eight(subgroupBroadcast(own.a, 5u), subgroupBroadcast(own.b, 5u)),
        Eight(subgroupBroadcast(own.a, 6u), subgroupBroadcast(own.b, 6u)),
        Eight(subgroupBroadcast(own.a, 7u), subgroupBroadcast(own.b, 7u)),
    );
}
