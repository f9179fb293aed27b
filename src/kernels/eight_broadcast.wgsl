// Eight neighbouring values for every lane: each of eight lanes loads one and broadcasts it. The twin is
// `eight_loads.wgsl`. `one_value` is the kernel's own.

// Those at `at` and after it, of which only `count` are there; the others are 0.
fn eight_values(at: u32, count: u32, lane: u32) -> Eight {
    return spread(select(0.0, one_value(at + lane), lane < count));
}
