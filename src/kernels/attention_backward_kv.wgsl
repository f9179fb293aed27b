// dk[j] = Σ over the queries that see key j of ds · q / √d, dv[j] = Σ p · dout, over all heads that
// share the key-value head; one workgroup per key and key-value head. The queries that see a key
// are the rows from its own to the end of its sequence, in order: the sum is the same every time.

@group(0) @binding(8) var<storage, read_write> dk: array<vec4<f32>>; // (T, kv_heads·d)
@group(0) @binding(9) var<storage, read_write> dv: array<vec4<f32>>; // (T, kv_heads·d)

const THREADS = 64u;
var<workgroup> weights: array<vec2<f32>, THREADS>; // p, ds

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let kv_head = group.x;
    let key = group.y;
    let quads = params.head_dim / 4u;
    let kv_base = (key * params.kv_heads + kv_head) * quads;
    let per_kv = params.heads / params.kv_heads;
    let count = rows_in_use(params.rows);

    var sum_k = vec4(0.0);
    var sum_v = vec4(0.0);
    var open = true;
    for (var tile = key; open; tile += THREADS) {
        // Sequences stand one after another: the first query that begins beyond the key ends them.
        var end = min(tile + THREADS, count);
        open = end == tile + THREADS && end < count;
        if end > tile && tokens[end - 1u].first_key > key {
            open = false;
            while end > tile && tokens[end - 1u].first_key > key {
                end -= 1u;
            }
        }
        for (var head = kv_head * per_kv; head < (kv_head + 1u) * per_kv; head += 1u) {
            let query = tile + thread;
            var weight = vec2(0.0);
            if query < end {
                let q_base = (query * params.heads + head) * quads;
                var score = 0.0;
                var pull = 0.0;
                for (var i = 0u; i < quads; i += 1u) {
                    score += dot(q[q_base + i], k[kv_base + i]);
                    pull += dot(dout[q_base + i], v[kv_base + i]);
                }
                let lse_delta = statistics[query * params.heads + head];
                let p = exp(score * params.scale - lse_delta.x);
                weight = vec2(p, p * (pull - lse_delta.y));
            }
            weights[thread] = weight;
            workgroupBarrier();
            if thread < quads {
                for (var j = 0u; tile + j < end; j += 1u) {
                    let at = ((tile + j) * params.heads + head) * quads + thread;
                    sum_v += weights[j].x * dout[at];
                    sum_k += weights[j].y * q[at];
                }
            }
            workgroupBarrier();
        }
    }
    if thread < quads {
        dk[kv_base + thread] = sum_k * params.scale;
        dv[kv_base + thread] = sum_v;
    }
}
