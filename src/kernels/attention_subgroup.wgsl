// `attention.wgsl` for the adapters of `matmul_rows.wgsl` and heads of up to 64: a workgroup takes
// eight tokens of a head, so that eight subgroups of eight lanes share what they load.

const LANES = 8u;
const TOKENS = 8u;
const KEYS = 64u; // of a tile, one a thread
const LOWEST = -3.4028234e38;
var<workgroup> scores: array<f32, TOKENS * KEYS>; // then the weights
var<workgroup> shrinks: array<f32, TOKENS>; // at last the totals

// Adds eight columns of a lane each, broadcast, times eight values of the lane's own.
fn add_dot(sum: f32, column: f32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    return sum
        + subgroupBroadcast(column, 0u) * a.x
        + subgroupBroadcast(column, 1u) * a.y
        + subgroupBroadcast(column, 2u) * a.z
        + subgroupBroadcast(column, 3u) * a.w
        + subgroupBroadcast(column, 4u) * b.x
        + subgroupBroadcast(column, 5u) * b.y
        + subgroupBroadcast(column, 6u) * b.z
        + subgroupBroadcast(column, 7u) * b.w;
}

// The token's row, or the last one's if it is past the end.
fn clamped(token: u32) -> u32 {
    return min(token, rows_in_use(params.rows) - 1u);
}

fn score(token: u32, sum: f32, key: u32) -> f32 {
    let seen = tokens[params.rows.x + clamped(token)];
    return select(LOWEST, sum * params.scale, key >= seen.first_key && key <= seen.last_key);
}

fn value(key: u32, base: u32, dim: u32) -> f32 {
    let four = key * params.kv_heads * params.quads + base + dim / 4u;
    return of_word(v[four][dim % 4u / PER_WORD], dim % PER_WORD);
}

fn store(token: u32, head: u32, dim: u32, sum: f32, total: f32) {
    if token < rows_in_use(params.rows) && dim < params.quads * 4u {
        out[(token * params.heads + head) * params.quads + dim / 4u][dim % 4u] = sum / total;
    }
}

@compute @workgroup_size(KEYS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let part = thread / LANES;
    let head = group.x;
    let first_token = group.y * TOKENS;
    let quads = params.quads;
    let kv_base = head / (params.heads / params.kv_heads) * quads;
    let dim = min(thread, quads * 4u - 1u); // of the values

    var begin = 0xffffffffu;
    var end = 0u;
    for (var i = 0u; i < TOKENS; i += 1u) {
        let token = tokens[params.rows.x + clamped(first_token + i)];
        begin = min(begin, token.first_key);
        end = max(end, token.last_key + 1u);
    }

    // The part-th token's, carried from tile to tile.
    var highest = LOWEST;
    var total = 0.0;
    let q0 = (clamped(first_token + 0u) * params.heads + head) * quads + lane / 4u;
    let q1 = (clamped(first_token + 1u) * params.heads + head) * quads + lane / 4u;
    let q2 = (clamped(first_token + 2u) * params.heads + head) * quads + lane / 4u;
    let q3 = (clamped(first_token + 3u) * params.heads + head) * quads + lane / 4u;
    let q4 = (clamped(first_token + 4u) * params.heads + head) * quads + lane / 4u;
    let q5 = (clamped(first_token + 5u) * params.heads + head) * quads + lane / 4u;
    let q6 = (clamped(first_token + 6u) * params.heads + head) * quads + lane / 4u;
    let q7 = (clamped(first_token + 7u) * params.heads + head) * quads + lane / 4u;
    var sum0 = 0.0;
    var sum1 = 0.0;
    var sum2 = 0.0;
    var sum3 = 0.0;
    var sum4 = 0.0;
    var sum5 = 0.0;
    var sum6 = 0.0;
    var sum7 = 0.0;
    for (var tile = begin; tile < end; tile += KEYS) {
        let key = tile + thread;
        let at = min(key, end - 1u) * params.kv_heads * quads + kv_base;
        var s0 = 0.0;
        var s1 = 0.0;
        var s2 = 0.0;
        var s3 = 0.0;
        var s4 = 0.0;
        var s5 = 0.0;
        var s6 = 0.0;
        var s7 = 0.0;
        for (var i = 0u; i < quads; i += 2u) {
            let a = unpacked(k[at + i]);
            let b = unpacked(k[at + i + 1u]);
            s0 = add_dot(s0, q[q0 + i][lane % 4u], a, b);
            s1 = add_dot(s1, q[q1 + i][lane % 4u], a, b);
            s2 = add_dot(s2, q[q2 + i][lane % 4u], a, b);
            s3 = add_dot(s3, q[q3 + i][lane % 4u], a, b);
            s4 = add_dot(s4, q[q4 + i][lane % 4u], a, b);
            s5 = add_dot(s5, q[q5 + i][lane % 4u], a, b);
            s6 = add_dot(s6, q[q6 + i][lane % 4u], a, b);
            s7 = add_dot(s7, q[q7 + i][lane % 4u], a, b);
        }
        scores[0u * KEYS + thread] = score(first_token + 0u, s0, key);
        scores[1u * KEYS + thread] = score(first_token + 1u, s1, key);
        scores[2u * KEYS + thread] = score(first_token + 2u, s2, key);
        scores[3u * KEYS + thread] = score(first_token + 3u, s3, key);
        scores[4u * KEYS + thread] = score(first_token + 4u, s4, key);
        scores[5u * KEYS + thread] = score(first_token + 5u, s5, key);
        scores[6u * KEYS + thread] = score(first_token + 6u, s6, key);
        scores[7u * KEYS + thread] = score(first_token + 7u, s7, key);
        workgroupBarrier();

        // Each subgroup turns one token's scores into weights.
        let own = part * KEYS + lane;
        var most = highest;
        for (var i = 0u; i < KEYS; i += LANES) {
            most = max(most, scores[own + i]);
        }
        most = subgroupMax(most);
        let shrink = exp(highest - most);
        highest = most;
        total *= shrink;
        for (var i = 0u; i < KEYS; i += LANES) {
            let weight = select(0.0, exp(scores[own + i] - most), scores[own + i] > LOWEST);
            scores[own + i] = weight;
            total += weight;
        }
        shrinks[part] = shrink;
        workgroupBarrier();

        let all = shrinks[lane];
        sum0 *= subgroupBroadcast(all, 0u);
        sum1 *= subgroupBroadcast(all, 1u);
        sum2 *= subgroupBroadcast(all, 2u);
        sum3 *= subgroupBroadcast(all, 3u);
        sum4 *= subgroupBroadcast(all, 4u);
        sum5 *= subgroupBroadcast(all, 5u);
        sum6 *= subgroupBroadcast(all, 6u);
        sum7 *= subgroupBroadcast(all, 7u);
        for (var i = 0u; i < min(KEYS, end - tile); i += LANES) {
            let last = end - 1u;
            let next = tile + i;
            let a = vec4<f32>(
                value(next, kv_base, dim),
                value(min(next + 1u, last), kv_base, dim),
                value(min(next + 2u, last), kv_base, dim),
                value(min(next + 3u, last), kv_base, dim),
            );
            let b = vec4<f32>(
                value(min(next + 4u, last), kv_base, dim),
                value(min(next + 5u, last), kv_base, dim),
                value(min(next + 6u, last), kv_base, dim),
                value(min(next + 7u, last), kv_base, dim),
            );
            sum0 = add_dot(sum0, scores[0u * KEYS + i + lane], a, b);
            sum1 = add_dot(sum1, scores[1u * KEYS + i + lane], a, b);
            sum2 = add_dot(sum2, scores[2u * KEYS + i + lane], a, b);
            sum3 = add_dot(sum3, scores[3u * KEYS + i + lane], a, b);
            sum4 = add_dot(sum4, scores[4u * KEYS + i + lane], a, b);
            sum5 = add_dot(sum5, scores[5u * KEYS + i + lane], a, b);
            sum6 = add_dot(sum6, scores[6u * KEYS + i + lane], a, b);
            sum7 = add_dot(sum7, scores[7u * KEYS + i + lane], a, b);
        }
        workgroupBarrier();
    }

    total = subgroupAdd(total);
    shrinks[part] = total;
    workgroupBarrier();
    let all = shrinks[lane];
    store(first_token + 0u, head, thread, sum0, subgroupBroadcast(all, 0u));
    store(first_token + 1u, head, thread, sum1, subgroupBroadcast(all, 1u));
    store(first_token + 2u, head, thread, sum2, subgroupBroadcast(all, 2u));
    store(first_token + 3u, head, thread, sum3, subgroupBroadcast(all, 3u));
    store(first_token + 4u, head, thread, sum4, subgroupBroadcast(all, 4u));
    store(first_token + 5u, head, thread, sum5, subgroupBroadcast(all, 5u));
    store(first_token + 6u, head, thread, sum6, subgroupBroadcast(all, 6u));
    store(first_token + 7u, head, thread, sum7, subgroupBroadcast(all, 7u));
    let token = first_token + part;
    if lane == 0u && params.want_lse == 1u && token < rows_in_use(params.rows) {
        lse[token * params.heads + head] = highest + log(total);
    }
}
