// As in `attention_step_plain.wgsl`, but each lane loads four features of the query and broadcasts them, and
// what is noted is the highest score of eight lanes.

// Eight features of the query, which two lanes have, times those of the key's number `i`.
fn eight_times(q0: vec4<f32>, q1: vec4<f32>, at: u32, i: u32) -> vec4<f32> {
    if i >= params.quads / 2u {
        return vec4<f32>();
    }
    let key = eight_unpacked(keys[at + i]);
    return q0 * key.a + q1 * key.b;
}

fn query_times(at: u32, lane: u32) -> f32 {
    var products = vec4<f32>();
    for (var first = 0u; first < params.quads; first += 8u) {
        let q = query[min(first + lane, params.quads - 1u)];
        let i = first / 2u;
        products += eight_times(subgroupBroadcast(q, 0u), subgroupBroadcast(q, 1u), at, i);
        products += eight_times(subgroupBroadcast(q, 2u), subgroupBroadcast(q, 3u), at, i + 1u);
        products += eight_times(subgroupBroadcast(q, 4u), subgroupBroadcast(q, 5u), at, i + 2u);
        products += eight_times(subgroupBroadcast(q, 6u), subgroupBroadcast(q, 7u), at, i + 3u);
    }
    return products.x + products.y + products.z + products.w;
}

fn note_score(score: f32, thread: u32) {
    let most = subgroupMax(score);
    if thread % 8u == 0u {
        scores[thread / 8u] = most;
    }
}

fn highest_score(count: u32, lane: u32) -> f32 {
    return subgroupMax(scores[lane]);
}
