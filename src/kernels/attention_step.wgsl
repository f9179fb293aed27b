// Attention of one token from what the products made of it: turns its queries and key by its
// position, writes key and value into the cache and mixes the values. A workgroup a query head, as in
// `attention.wgsl`; each turns the key it needs, and the first of a key's heads writes it. None reads
// the row of the cache that is being written: its own key is where the softmax starts.
// `query_times`, `note_score` and `highest_score` are those of `attention_step_plain.wgsl`, or where
// `matmul_rows.wgsl` runs of `attention_step_subgroup.wgsl`.

struct Up {
    place: u32, // B's, in `parameters`
    rank: u32,
    at: u32, // h's, in `qkv`
    scale: f32,
}

struct Params {
    heads: u32,
    kv_heads: u32,
    quads: u32, // vec4s in a head, d/4
    scale: f32, // 1/√d
    k_at: u32, // in `qkv`, in fours
    v_at: u32,
    pad: vec2<u32>,
    q_up: Up,
    k_up: Up,
    v_up: Up,
    down: Narrow,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>; // (heads·d), k and v (kv_heads·d), h's
@group(0) @binding(3) var<storage, read> tokens: array<Token>; // (1)
@group(0) @binding(4) var<storage, read> table: array<vec2<f32>>; // (positions, d/2): cos, sin
@group(0) @binding(5) var<storage, read> parameters: array<f32>;
@group(0) @binding(6) var<storage, read_write> keys: array<StoredEight>; // (capacity, kv_heads·d)
@group(0) @binding(7) var<storage, read_write> values: array<StoredEight>; // (capacity, kv_heads·d)
@group(0) @binding(8) var<storage, read_write> out: array<f32>; // (heads·d), then a share of h a head

const THREADS = 64u;
const MOST_QUADS = 64u;
const LOWEST = -3.4028234e38;
var<workgroup> query: array<vec4<f32>, MOST_QUADS>;
var<workgroup> own_key: array<vec4<f32>, MOST_QUADS>;
var<workgroup> own_value: array<vec4<f32>, MOST_QUADS>;
var<workgroup> scores: array<f32, THREADS>;
var<workgroup> weights: array<f32, THREADS>;
var<workgroup> sums: array<Eight, THREADS>;

// Four features of a product, whose own number `quad` is; `cols` it has in all.
fn updated(at: u32, quad: u32, cols: u32, up: Up) -> vec4<f32> {
    var sum = vec4<f32>();
    for (var j = 0u; j < up.rank; j += 1u) {
        let h = up.at + j;
        let b = up.place + j * cols + quad * 4u;
        let four = vec4<f32>(parameters[b], parameters[b + 1u], parameters[b + 2u], parameters[b + 3u]);
        sum += qkv[h / 4u][h % 4u] * four;
    }
    return qkv[at + quad] + up.scale * sum;
}

// The first and the second half of a head turned, four pairs from pair 4·i on.
fn turned(a: vec4<f32>, b: vec4<f32>, i: u32, position: u32) -> array<vec4<f32>, 2> {
    let first = position * params.quads * 2u + i * 4u;
    let t0 = table[first];
    let t1 = table[first + 1u];
    let t2 = table[first + 2u];
    let t3 = table[first + 3u];
    let cosine = vec4<f32>(t0.x, t1.x, t2.x, t3.x);
    let sine = vec4<f32>(t0.y, t1.y, t2.y, t3.y);
    return array<vec4<f32>, 2>(a * cosine - b * sine, b * cosine + a * sine);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % 8u;
    let head = group.x;
    let quads = params.quads;
    let half = quads / 2u; // the eights too
    let group_heads = params.heads / params.kv_heads;
    let kv_stride = params.kv_heads * quads;
    let kv_base = head / group_heads * quads;
    let eights_stride = params.kv_heads * half;
    let eights_base = head / group_heads * half;
    let token = tokens[0];
    let own = token.last_key;

    // Of the query, of the key, and as they are of the value.
    for (var i = thread; i < 2u * half + quads; i += THREADS) {
        if i < half {
            let quad = head * quads + i;
            let cols = params.heads * quads * 4u;
            let a = updated(0u, quad, cols, params.q_up);
            let b = updated(0u, quad + half, cols, params.q_up);
            let both = turned(a, b, i, token.position);
            query[i] = both[0];
            query[i + half] = both[1];
        } else if i < 2u * half {
            let quad = kv_base + i - half;
            let a = updated(params.k_at, quad, kv_stride * 4u, params.k_up);
            let b = updated(params.k_at, quad + half, kv_stride * 4u, params.k_up);
            let both = turned(a, b, i - half, token.position);
            own_key[i - half] = both[0];
            own_key[i] = both[1];
        } else {
            let quad = i - 2u * half;
            own_value[quad] = updated(params.v_at, kv_base + quad, kv_stride * 4u, params.v_up);
        }
    }
    workgroupBarrier();
    if thread < half && head % group_heads == 0u {
        let at = own * eights_stride + eights_base + thread;
        keys[at] = eight_packed(Eight(own_key[2u * thread], own_key[2u * thread + 1u]));
        values[at] = eight_packed(Eight(own_value[2u * thread], own_value[2u * thread + 1u]));
    }
    if thread < quads {
        scores[thread] = dot(query[thread], own_key[thread]);
    }
    workgroupBarrier();

    // For the values, thread = part · half + eight; each part takes every parts-th key, the first
    // also the own one.
    let parts = THREADS / half;
    let part = thread / half;
    let eight = thread % half;
    var highest = 0.0;
    for (var i = 0u; i < quads; i += 1u) {
        highest += scores[i];
    }
    highest *= params.scale;
    var total = 0.0;
    var sum = Eight();
    if part == 0u {
        total = 1.0;
        sum = Eight(own_value[2u * eight], own_value[2u * eight + 1u]);
    }
    for (var tile = token.first_key; tile < own; tile += THREADS) {
        let key = tile + thread;
        // Past the end the last key's, which is left out.
        let product = query_times(min(key, own - 1u) * eights_stride + eights_base, lane);
        let score = select(LOWEST, product * params.scale, key < own);
        workgroupBarrier(); // nobody reads the last tile's any more
        note_score(score, thread);
        workgroupBarrier();

        let count = min(THREADS, own - tile);
        let now_highest = max(highest, highest_score(count, lane));
        let shrink = exp(highest - now_highest);
        highest = now_highest;
        weights[thread] = select(0.0, exp(score - highest), key < own);
        workgroupBarrier();

        sum = Eight(shrink * sum.a, shrink * sum.b);
        total *= shrink;
        for (var i = part; i < count; i += parts) {
            let weight = weights[i];
            let value = eight_unpacked(values[(tile + i) * eights_stride + eights_base + eight]);
            total += weight;
            sum = Eight(sum.a + weight * value.a, sum.b + weight * value.b);
        }
    }

    // Each part has its own keys' share of sum and total.
    workgroupBarrier();
    sums[thread] = sum;
    weights[thread] = total;
    workgroupBarrier();
    if part == 0u {
        for (var i = 1u; i < parts; i += 1u) {
            let other = sums[i * half + eight];
            sum = Eight(sum.a + other.a, sum.b + other.b);
            total += weights[i * half + eight];
        }
        let first = sum.a / total;
        let second = sum.b / total;
        let at = head * quads * 4u;
        for (var i = 0u; i < 8u; i += 1u) {
            let mixed = select(second[i & 3u], first[i & 3u], i < 4u);
            out[at + eight * 8u + i] = mixed;
            features[eight * 8u + i] = mixed;
        }
    }
    narrow(params.down, head, head * quads * 4u, quads * 4u, thread);
}
