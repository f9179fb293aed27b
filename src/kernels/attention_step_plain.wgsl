// The query times the key that begins at `at`.
fn query_times(at: u32, lane: u32) -> f32 {
    var products = vec4<f32>();
    for (var i = 0u; i < params.quads / 2u; i += 1u) {
        let key = eight_unpacked(keys[at + i]);
        products += query[2u * i] * key.a;
        products += query[2u * i + 1u] * key.b;
    }
    return products.x + products.y + products.z + products.w;
}

fn note_score(score: f32, thread: u32) {
    scores[thread] = score;
}

// Of the first `count` scores.
fn highest_score(count: u32, lane: u32) -> f32 {
    var most = scores[0];
    for (var i = 1u; i < count; i += 1u) {
        most = max(most, scores[i]);
    }
    return most;
}
