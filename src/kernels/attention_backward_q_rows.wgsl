// `attention_backward_q.wgsl` for the adapters of `attention_rows.wgsl`: a thread does two tokens of a head.

@group(0) @binding(8) var<storage, read_write> dq: array<vec4<f32>>; // (T, heads·d)

const QUERIES = 2u; // a thread

// A query, and what its sum is made query.
struct Query {
    q: Head,
    dout: Head,
    lse: f32,
    delta: f32,
    first_key: u32,
    last_key: u32,
}

fn q_head(at: u32) -> Head {
    return Head(
        q_eight(at, 0u),
        q_eight(at, 1u),
        q_eight(at, 2u),
        q_eight(at, 3u),
        q_eight(at, 4u),
        q_eight(at, 5u),
        q_eight(at, 6u),
        q_eight(at, 7u),
    );
}

fn dout_head(at: u32) -> Head {
    return Head(
        dout_eight(at, 0u),
        dout_eight(at, 1u),
        dout_eight(at, 2u),
        dout_eight(at, 3u),
        dout_eight(at, 4u),
        dout_eight(at, 5u),
        dout_eight(at, 6u),
        dout_eight(at, 7u),
    );
}

fn k_rows(at: vec2<u32>) -> HeadRows {
    return HeadRows(
        exchanged(k_eight(at.x, 0u), k_eight(at.y, 0u)),
        exchanged(k_eight(at.x, 1u), k_eight(at.y, 1u)),
        exchanged(k_eight(at.x, 2u), k_eight(at.y, 2u)),
        exchanged(k_eight(at.x, 3u), k_eight(at.y, 3u)),
        exchanged(k_eight(at.x, 4u), k_eight(at.y, 4u)),
        exchanged(k_eight(at.x, 5u), k_eight(at.y, 5u)),
        exchanged(k_eight(at.x, 6u), k_eight(at.y, 6u)),
        exchanged(k_eight(at.x, 7u), k_eight(at.y, 7u)),
    );
}

fn v_rows(at: vec2<u32>) -> HeadRows {
    return HeadRows(
        exchanged(v_eight(at.x, 0u), v_eight(at.y, 0u)),
        exchanged(v_eight(at.x, 1u), v_eight(at.y, 1u)),
        exchanged(v_eight(at.x, 2u), v_eight(at.y, 2u)),
        exchanged(v_eight(at.x, 3u), v_eight(at.y, 3u)),
        exchanged(v_eight(at.x, 4u), v_eight(at.y, 4u)),
        exchanged(v_eight(at.x, 5u), v_eight(at.y, 5u)),
        exchanged(v_eight(at.x, 6u), v_eight(at.y, 6u)),
        exchanged(v_eight(at.x, 7u), v_eight(at.y, 7u)),
    );
}

fn query_of(row: u32, head: u32) -> Query {
    let of_row = row * params.heads + head;
    let at = of_row * (params.head_dim / 4u);
    let lse_delta = statistics[of_row];
    let token = tokens[row];
    return Query(q_head(at), dout_head(at), lse_delta.x, lse_delta.y, token.first_key, token.last_key);
}

fn slope(scores: vec4<f32>, pulls: vec4<f32>, keys: vec4<u32>, query: Query) -> vec4<f32> {
    let seen = (keys >= vec4<u32>(query.first_key)) & (keys <= vec4<u32>(query.last_key));
    let p = exp(scores * params.scale - query.lse);
    return select(vec4<f32>(), p * (pulls - query.delta), seen);
}

fn added(sum: Head, query: Query, keys: HeadRows, values: HeadRows, order: vec4<u32>) -> Head {
    let scores = products(query.q, keys);
    let pulls = products(query.dout, values);
    let slopes = Eight(
        slope(scores.a, pulls.a, order, query),
        slope(scores.b, pulls.b, order + vec4<u32>(4u), query),
    );
    return add_rows(sum, slopes, keys);
}

fn store(row: u32, head: u32, sum: Head) {
    let at = (row * params.heads + head) * (params.head_dim / 4u);
    store_eight(at, sum[0], 0u);
    store_eight(at, sum[1], 1u);
    store_eight(at, sum[2], 2u);
    store_eight(at, sum[3], 3u);
    store_eight(at, sum[4], 4u);
    store_eight(at, sum[5], 5u);
    store_eight(at, sum[6], 6u);
    store_eight(at, sum[7], 7u);
}

fn store_eight(at: u32, sum: Eight, e: u32) {
    if e < EIGHTS {
        dq[at + 2u * e] = sum.a * params.scale;
        dq[at + 2u * e + 1u] = sum.b * params.scale;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.x;
    let quads = params.head_dim / 4u;
    let stride = params.kv_heads * quads;
    let base = head / (params.heads / params.kv_heads) * quads;
    let first_row = group.y * QUERIES * LANES;
    let last_row = rows_in_use(params.rows) - 1u;

    // Sequences stand one after another: a later token's first key is never an earlier one.
    let end = tokens[min(first_row + QUERIES * LANES - 1u, last_row)].last_key + 1u;

    // Rows past the end are computed as the last one and not stored.
    let rows = vec2<u32>(first_row + lane, first_row + LANES + lane);
    let a = query_of(min(rows.x, last_row), head);
    let b = query_of(min(rows.y, last_row), head);
    var sum_a = Head();
    var sum_b = Head();
    for (var tile = tokens[first_row].first_key; tile < end; tile += ROWS) {
        let own = min(vec2<u32>(tile + lane, tile + lane + 4u), vec2<u32>(end - 1u));
        let at = own * stride + base;
        let keys = k_rows(at);
        let values = v_rows(at);
        let order = tile + row_order(lane);
        sum_a = added(sum_a, a, keys, values, order);
        sum_b = added(sum_b, b, keys, values, order);
    }

    if rows.x <= last_row {
        store(rows.x, head, sum_a);
    }
    if rows.y <= last_row {
        store(rows.y, head, sum_b);
    }
}
