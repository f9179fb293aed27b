// A value of each of eight lanes, for every lane.
fn spread(v: f32) -> Eight {
    return Eight(
        vec4<f32>(
            subgroupBroadcast(v, 0u),
            subgroupBroadcast(v, 1u),
            subgroupBroadcast(v, 2u),
            subgroupBroadcast(v, 3u),
        ),
        vec4<f32>(
            subgroupBroadcast(v, 4u),
            subgroupBroadcast(v, 5u),
            subgroupBroadcast(v, 6u),
            subgroupBroadcast(v, 7u),
        ),
    );
}
