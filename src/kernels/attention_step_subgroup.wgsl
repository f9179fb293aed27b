// As in `attention_step_plain.wgsl`, but each lane loads one of eight values and broadcasts it.

fn query_times(at: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < params.quads; i += 2u) {
        let q = query[i + lane / 4u][lane % 4u];
        let a = unpacked(keys[at + i]);
        let b = unpacked(keys[at + i + 1u]);
        sum += subgroupBroadcast(q, 0u) * a.x + subgroupBroadcast(q, 1u) * a.y;
        sum += subgroupBroadcast(q, 2u) * a.z + subgroupBroadcast(q, 3u) * a.w;
        sum += subgroupBroadcast(q, 4u) * b.x + subgroupBroadcast(q, 5u) * b.y;
        sum += subgroupBroadcast(q, 6u) * b.z + subgroupBroadcast(q, 7u) * b.w;
    }
    return sum;
}

fn highest_score(count: u32, lane: u32) -> f32 {
    var most = LOWEST;
    for (var i = 0u; i < count; i += 8u) {
        most = max(most, scores[min(i + lane, count - 1u)]);
    }
    return subgroupMax(most);
}
