// out[t, h] = softmax(q[t, h] · kᵀ / √d over the keys t sees) · v, one workgroup per head and token.
//
// Keys come in tiles of one a thread; maximum and sum are carried from tile to tile (Milakov and
// Gimelshein, 2018), so that no row of scores is ever stored whole.

alias Stored = Four;
const THREADS = 64u;
const LOWEST = -3.4028234e38;
var<workgroup> scores: array<f32, THREADS>;
var<workgroup> weights: array<f32, THREADS>;
var<workgroup> sums: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let row = group.y;
    let quads = params.quads;
    let kv_stride = params.kv_heads * quads;
    let kv_base = head / (params.heads / params.kv_heads) * quads;
    let q_base = (row * params.heads + head) * quads;
    let first = tokens[params.rows.x + row].first_key;
    let end = tokens[params.rows.x + row].last_key + 1u;

    // For the values, thread = part · quads + quad; each part takes every parts-th key.
    let parts = THREADS / quads;
    let part = thread / quads;
    let quad = thread % quads;

    var highest = LOWEST;
    var total = 0.0;
    var sum = vec4(0.0);
    for (var tile = first; tile < end; tile += THREADS) {
        let key = tile + thread;
        var score = LOWEST;
        if key < end {
            var products = vec4(0.0);
            for (var i = 0u; i < quads; i += 1u) {
                products += q[q_base + i] * unpacked(k[key * kv_stride + kv_base + i]);
            }
            score = (products.x + products.y + products.z + products.w) * params.scale;
        }
        scores[thread] = score;
        workgroupBarrier();

        var most = scores[0];
        for (var i = 1u; i < min(THREADS, end - tile); i += 1u) {
            most = max(most, scores[i]);
        }
        let now_highest = max(highest, most);
        let shrink = exp(highest - now_highest);
        highest = now_highest;
        weights[thread] = select(0.0, exp(score - highest), key < end);
        workgroupBarrier();

        sum *= shrink;
        total *= shrink;
        for (var i = part; i < min(THREADS, end - tile); i += parts) {
            total += weights[i];
            sum += weights[i] * unpacked(v[(tile + i) * kv_stride + kv_base + quad]);
        }
    }

    // Each part has its own keys' share of sum and total.
    workgroupBarrier();
    sums[thread] = sum;
    weights[thread] = total;
    workgroupBarrier();
    if part == 0u {
        for (var i = 1u; i < parts; i += 1u) {
            sum += sums[i * quads + quad];
            total += weights[i * quads + quad];
        }
        out[q_base + quad] = sum / total;
    }
    if thread == 0u && params.want_lse == 1u {
        lse[row * params.heads + head] = highest + log(total);
    }
}
