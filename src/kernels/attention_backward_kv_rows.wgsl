// `attention_backward_kv.wgsl` for the adapters of `attention_rows.wgsl`: a thread does one key of a head.

@group(0) @binding(8) var<storage, read_write> dk: array<vec4<f32>>; // (T, kv_heads·d)
@group(0) @binding(9) var<storage, read_write> dv: array<vec4<f32>>; // (T, kv_heads·d)

const NEVER = 3.4028234e38; // sees a key that there is not

fn k_head(at: u32) -> Head {
    return Head(
        k_eight(at, 0u),
        k_eight(at, 1u),
        k_eight(at, 2u),
        k_eight(at, 3u),
        k_eight(at, 4u),
        k_eight(at, 5u),
        k_eight(at, 6u),
        k_eight(at, 7u),
    );
}

fn v_head(at: u32) -> Head {
    return Head(
        v_eight(at, 0u),
        v_eight(at, 1u),
        v_eight(at, 2u),
        v_eight(at, 3u),
        v_eight(at, 4u),
        v_eight(at, 5u),
        v_eight(at, 6u),
        v_eight(at, 7u),
    );
}

fn q_rows(at: vec2<u32>) -> HeadRows {
    return HeadRows(
        exchanged(q_eight(at.x, 0u), q_eight(at.y, 0u)),
        exchanged(q_eight(at.x, 1u), q_eight(at.y, 1u)),
        exchanged(q_eight(at.x, 2u), q_eight(at.y, 2u)),
        exchanged(q_eight(at.x, 3u), q_eight(at.y, 3u)),
        exchanged(q_eight(at.x, 4u), q_eight(at.y, 4u)),
        exchanged(q_eight(at.x, 5u), q_eight(at.y, 5u)),
        exchanged(q_eight(at.x, 6u), q_eight(at.y, 6u)),
        exchanged(q_eight(at.x, 7u), q_eight(at.y, 7u)),
    );
}

fn dout_rows(at: vec2<u32>) -> HeadRows {
    return HeadRows(
        exchanged(dout_eight(at.x, 0u), dout_eight(at.y, 0u)),
        exchanged(dout_eight(at.x, 1u), dout_eight(at.y, 1u)),
        exchanged(dout_eight(at.x, 2u), dout_eight(at.y, 2u)),
        exchanged(dout_eight(at.x, 3u), dout_eight(at.y, 3u)),
        exchanged(dout_eight(at.x, 4u), dout_eight(at.y, 4u)),
        exchanged(dout_eight(at.x, 5u), dout_eight(at.y, 5u)),
        exchanged(dout_eight(at.x, 6u), dout_eight(at.y, 6u)),
        exchanged(dout_eight(at.x, 7u), dout_eight(at.y, 7u)),
    );
}

// What a query's row has besides: lse, delta, the first and the last key it sees.
fn about(row: u32, head: u32) -> Eight {
    let last = rows_in_use(params.rows) - 1u;
    let lse_delta = statistics[min(row, last) * params.heads + head];
    let first_key = select(NEVER, f32(tokens[min(row, last)].first_key), row <= last);
    return Eight(vec4<f32>(lse_delta, first_key, f32(row)), vec4<f32>());
}

// The probabilities that four queries gave a key, and the slopes of its scores.
struct Weights {
    p: vec4<f32>,
    ds: vec4<f32>,
}

fn weights(
    scores: vec4<f32>,
    pulls: vec4<f32>,
    queries: mat4x4<f32>, // `about` them
    key: f32,
) -> Weights {
    let by_kind = transpose(queries);
    let seen = (by_kind[2] <= vec4<f32>(key)) & (by_kind[3] >= vec4<f32>(key));
    let p = select(vec4<f32>(), exp(scores * params.scale - by_kind[0]), seen);
    return Weights(p, p * (pulls - by_kind[1]));
}

fn store_eight(at: u32, key_sum: Eight, value_sum: Eight, e: u32) {
    if e < EIGHTS {
        dk[at + 2u * e] = key_sum.a * params.scale;
        dk[at + 2u * e + 1u] = key_sum.b * params.scale;
        dv[at + 2u * e] = value_sum.a;
        dv[at + 2u * e + 1u] = value_sum.b;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let kv_head = group.x;
    let quads = params.head_dim / 4u;
    let per_kv = params.heads / params.kv_heads;
    let count = rows_in_use(params.rows);
    let first = group.y * LANES;

    // Keys past the end are computed as the last one and not stored.
    let key = min(first + lane, count - 1u);
    let of_key = (key * params.kv_heads + kv_head) * quads;
    let own_key = k_head(of_key);
    let own_value = v_head(of_key);
    var key_sum = Head();
    var value_sum = Head();
    // Sequences stand one after another: the first query that begins beyond the keys ends them.
    for (var tile = first; tile < count; tile += ROWS) {
        if tokens[tile].first_key >= first + LANES {
            break;
        }
        for (var head = kv_head * per_kv; head < (kv_head + 1u) * per_kv; head += 1u) {
            let rows = vec2<u32>(tile + lane, tile + lane + 4u);
            let at = (min(rows, vec2<u32>(count - 1u)) * params.heads + head) * quads;
            let queries = q_rows(at);
            let douts = dout_rows(at);
            let queries_about = exchanged(about(rows.x, head), about(rows.y, head));
            let scores = products(own_key, queries);
            let pulls = products(own_value, douts);
            let low = weights(
                scores.a,
                pulls.a,
                mat4x4<f32>(
                    queries_about[0].a,
                    queries_about[1].a,
                    queries_about[2].a,
                    queries_about[3].a,
                ),
                f32(key),
            );
            let high = weights(
                scores.b,
                pulls.b,
                mat4x4<f32>(
                    queries_about[4].a,
                    queries_about[5].a,
                    queries_about[6].a,
                    queries_about[7].a,
                ),
                f32(key),
            );
            key_sum = add_rows(key_sum, Eight(low.ds, high.ds), queries);
            value_sum = add_rows(value_sum, Eight(low.p, high.p), douts);
        }
    }

    if first + lane < count {
        store_eight(of_key, key_sum[0], value_sum[0], 0u);
        store_eight(of_key, key_sum[1], value_sum[1], 1u);
        store_eight(of_key, key_sum[2], value_sum[2], 2u);
        store_eight(of_key, key_sum[3], value_sum[3], 3u);
        store_eight(of_key, key_sum[4], value_sum[4], 4u);
        store_eight(of_key, key_sum[5], value_sum[5], 5u);
        store_eight(of_key, key_sum[6], value_sum[6], 6u);
        store_eight(of_key, key_sum[7], value_sum[7], 7u);
    }
}
