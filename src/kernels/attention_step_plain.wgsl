// The query times the key that begins at `at`.
fn query_times(at: u32, lane: u32) -> f32 {
    var products = vec4<f32>();
    for (var i = 0u; i < params.quads; i += 1u) {
        products += query[i] * unpacked(keys[at + i]);
    }
    return products.x + products.y + products.z + products.w;
}

// Of the first `count` scores.
fn highest_score(count: u32, lane: u32) -> f32 {
    var most = scores[0];
    for (var i = 1u; i < count; i += 1u) {
        most = max(most, scores[i]);
    }
    return most;
}
