// Eight neighbouring values for every thread, each of which loads them all: needs no subgroups. The
// twin is `eight_broadcast.wgsl`.

fn eight_values(at: u32, count: u32, lane: u32) -> Eight {
    let first = vec4<f32>(
        one_value(at),
        one_value(at + 1u),
        one_value(at + 2u),
        one_value(at + 3u),
    );
    let second = vec4<f32>(
        one_value(at + 4u),
        one_value(at + 5u),
        one_value(at + 6u),
        one_value(at + 7u),
    );
    let places = vec4<u32>(0u, 1u, 2u, 3u);
    return Eight(
        select(vec4<f32>(), first, places < vec4<u32>(count)),
        select(vec4<f32>(), second, places + 4u < vec4<u32>(count)),
    );
}
