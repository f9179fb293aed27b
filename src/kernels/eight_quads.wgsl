// Eight neighbouring values for every lane of four, in an order of its own: each loads two and they swap
// them. Place `k` of each half of lane `l` has value `k ^ l` of that half. `one_value` is the kernel's own.

fn four_of(v: f32) -> vec4<f32> {
    return vec4<f32>(v, quadSwapX(v), quadSwapY(v), quadSwapDiagonal(v));
}

// Those at `at` and after it, of which only `count` are there; the others are 0.
fn eight_values(at: u32, count: u32, lane: u32) -> Eight {
    let own = lane & 3u;
    let first = select(0.0, one_value(at + own), own < count);
    let second = select(0.0, one_value(at + 4u + own), own + 4u < count);
    return Eight(four_of(first), four_of(second));
}
