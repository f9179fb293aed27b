// `attention.wgsl` for the adapters of `matmul_rows.wgsl` and heads of up to 64: no workgroup memory and
// no barriers. A thread does two tokens of a head, eight keys at a time, which its lanes load for one
// another. All that it carries has places that the compiler knows, so that nothing but the keys is a loop.

alias Stored = StoredEight;
override EIGHTS: u32; // of a head, d/8
const MOST_EIGHTS = 8u;
const KEYS = 8u; // a turn
const QUERIES = 2u; // a thread
const LOWEST = -3.4028234e38;
alias Head = array<Eight, MOST_EIGHTS>;

// What a query has seen so far.
struct Softmax {
    highest: f32,
    total: f32,
    shrink: f32, // of all before the last keys
    weights: Eight, // theirs
}

fn query(at: u32, e: u32) -> Eight {
    if e < EIGHTS {
        return Eight(q[at + 2u * e], q[at + 2u * e + 1u]);
    }
    return Eight();
}

fn head_of(at: u32) -> Head {
    return Head(
        query(at, 0u),
        query(at, 1u),
        query(at, 2u),
        query(at, 3u),
        query(at, 4u),
        query(at, 5u),
        query(at, 6u),
        query(at, 7u),
    );
}

fn add_scores(scores: ptr<function, array<Eight, QUERIES>>, a: Eight, b: Eight, at: vec2<u32>, e: u32) {
    if e < EIGHTS {
        let keys = exchanged(eight_unpacked(k[at.x + e]), eight_unpacked(k[at.y + e]));
        (*scores)[0] = add_products((*scores)[0], a, keys);
        (*scores)[1] = add_products((*scores)[1], b, keys);
    }
}

fn see(before: Softmax, scores: Eight, keys: vec4<u32>, token: Token) -> Softmax {
    let further = keys + vec4<u32>(4u);
    let first = vec4<u32>(token.first_key);
    let last = vec4<u32>(token.last_key);
    let seen_a = (keys >= first) & (keys <= last);
    let seen_b = (further >= first) & (further <= last);
    let a = select(vec4<f32>(LOWEST), scores.a * params.scale, seen_a);
    let b = select(vec4<f32>(LOWEST), scores.b * params.scale, seen_b);
    let most = max(a, b);
    let highest = max(before.highest, max(max(most.x, most.y), max(most.z, most.w)));
    let shrink = exp(before.highest - highest);
    let weights = Eight(
        select(vec4<f32>(), exp(a - highest), seen_a),
        select(vec4<f32>(), exp(b - highest), seen_b),
    );
    let both = weights.a + weights.b;
    let total = before.total * shrink + ((both.x + both.y) + (both.z + both.w));
    return Softmax(highest, total, shrink, weights);
}

fn mixed(sum: Eight, seen: Softmax, rows: array<Eight, 8>) -> Eight {
    return add_weighted(Eight(sum.a * seen.shrink, sum.b * seen.shrink), seen.weights, rows);
}

fn mix(
    sums_a: ptr<function, Head>,
    sums_b: ptr<function, Head>,
    a: Softmax,
    b: Softmax,
    at: vec2<u32>,
    e: u32,
) {
    if e < EIGHTS {
        let rows = exchanged(eight_unpacked(v[at.x + e]), eight_unpacked(v[at.y + e]));
        (*sums_a)[e] = mixed((*sums_a)[e], a, rows);
        (*sums_b)[e] = mixed((*sums_b)[e], b, rows);
    }
}

fn store_eight(at: u32, sum: Eight, total: f32, e: u32) {
    if e < EIGHTS {
        out[at + 2u * e] = sum.a / total;
        out[at + 2u * e + 1u] = sum.b / total;
    }
}

fn store(head: u32, seen: Softmax, sums: Head) {
    let at = head * params.quads;
    store_eight(at, sums[0], seen.total, 0u);
    store_eight(at, sums[1], seen.total, 1u);
    store_eight(at, sums[2], seen.total, 2u);
    store_eight(at, sums[3], seen.total, 3u);
    store_eight(at, sums[4], seen.total, 4u);
    store_eight(at, sums[5], seen.total, 5u);
    store_eight(at, sums[6], seen.total, 6u);
    store_eight(at, sums[7], seen.total, 7u);
    if params.want_lse == 1u {
        lse[head] = seen.highest + log(seen.total);
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.x;
    let first_row = group.y * QUERIES * LANES;
    let last_row = rows_in_use(params.rows) - 1u;
    let stride = params.kv_heads * EIGHTS;
    let base = head / (params.heads / params.kv_heads) * EIGHTS;

    // Rows past the end are computed as the last one and not stored.
    var begin = 0xffffffffu;
    var end = 0u;
    for (var row = first_row; row <= min(first_row + QUERIES * LANES - 1u, last_row); row += 1u) {
        let token = tokens[params.rows.x + row];
        begin = min(begin, token.first_key);
        end = max(end, token.last_key + 1u);
    }

    let rows = vec2<u32>(first_row + lane, first_row + LANES + lane);
    let clamped = min(rows, vec2<u32>(last_row));
    let token_a = tokens[params.rows.x + clamped.x];
    let token_b = tokens[params.rows.x + clamped.y];
    let heads = clamped * params.heads + head;
    let query_a = head_of(heads.x * params.quads);
    let query_b = head_of(heads.y * params.quads);

    var a = Softmax(LOWEST, 0.0, 0.0, Eight());
    var b = Softmax(LOWEST, 0.0, 0.0, Eight());
    var sums_a: Head;
    var sums_b: Head;
    for (var tile = begin; tile < end; tile += KEYS) {
        let own = min(vec2<u32>(tile + lane, tile + lane + 4u), vec2<u32>(end - 1u));
        let at = own * stride + base;
        var scores = array<Eight, QUERIES>();
        add_scores(&scores, query_a[0], query_b[0], at, 0u);
        add_scores(&scores, query_a[1], query_b[1], at, 1u);
        add_scores(&scores, query_a[2], query_b[2], at, 2u);
        add_scores(&scores, query_a[3], query_b[3], at, 3u);
        add_scores(&scores, query_a[4], query_b[4], at, 4u);
        add_scores(&scores, query_a[5], query_b[5], at, 5u);
        add_scores(&scores, query_a[6], query_b[6], at, 6u);
        add_scores(&scores, query_a[7], query_b[7], at, 7u);
        let keys = tile + row_order(lane);
        a = see(a, scores[0], keys, token_a);
        b = see(b, scores[1], keys, token_b);
        mix(&sums_a, &sums_b, a, b, at, 0u);
        mix(&sums_a, &sums_b, a, b, at, 1u);
        mix(&sums_a, &sums_b, a, b, at, 2u);
        mix(&sums_a, &sums_b, a, b, at, 3u);
        mix(&sums_a, &sums_b, a, b, at, 4u);
        mix(&sums_a, &sums_b, a, b, at, 5u);
        mix(&sums_a, &sums_b, a, b, at, 6u);
        mix(&sums_a, &sums_b, a, b, at, 7u);
    }

    if rows.x <= last_row {
        store(heads.x, a, sums_a);
    }
    if rows.y <= last_row {
        store(heads.y, b, sums_b);
    }
}
