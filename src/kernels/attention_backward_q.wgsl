// dq[t, h] = Σ over the keys t sees of ds · k / √d, with p = exp(q·k/√d − lse),
// ds = p · (dout·v − delta) and delta = dout·out; one workgroup per token and head, threads over
// keys for ds, then over features for the sum. Also leaves delta for the other kernel.

@group(0) @binding(8) var<storage, read_write> dq: array<vec4<f32>>; // (T, heads·d)

const THREADS = 64u;
var<workgroup> slopes: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let row = group.y;
    let quads = params.head_dim / 4u;
    let q_base = (row * params.heads + head) * quads;
    let kv_stride = params.kv_heads * quads;
    let kv_base = head / (params.heads / params.kv_heads) * quads;
    let first = tokens[row].first_key;
    let end = tokens[row].last_key + 1u;
    let lse_delta = statistics[row * params.heads + head];

    var sum = vec4(0.0);
    for (var tile = first; tile < end; tile += THREADS) {
        let key = tile + thread;
        var slope = 0.0;
        if key < end {
            var score = 0.0;
            var pull = 0.0;
            for (var i = 0u; i < quads; i += 1u) {
                let at = key * kv_stride + kv_base + i;
                score += dot(q[q_base + i], k[at]);
                pull += dot(dout[q_base + i], v[at]);
            }
            slope = exp(score * params.scale - lse_delta.x) * (pull - lse_delta.y);
        }
        slopes[thread] = slope;
        workgroupBarrier();
        if thread < quads {
            for (var j = 0u; j < min(THREADS, end - tile); j += 1u) {
                sum += slopes[j] * k[(tile + j) * kv_stride + kv_base + thread];
            }
        }
        workgroupBarrier();
    }
    if thread < quads {
        dq[q_base + thread] = sum * params.scale;
    }
}
