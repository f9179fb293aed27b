// The greedy decode step: the id of the largest logit becomes the token of the next replay, at the
// next position. Of equals the lowest id wins; NaN never does.
struct Params {
    vocab: u32,
    picks: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>; // (1, vocab)
@group(0) @binding(3) var<storage, read_write> token: array<vec4<u32>>; // (1)
@group(0) @binding(4) var<storage, read_write> picked: array<u32>; // (picks), by position, a ring

const THREADS = 256u;
const LOWEST = -3.4028234e38;
var<workgroup> best_logits: array<f32, THREADS>;
var<workgroup> best_ids: array<u32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var best = LOWEST;
    var best_id = 0xffffffffu;
    for (var i = thread; i < params.vocab; i += THREADS) {
        let logit = logits[i];
        if logit > best {
            best = logit;
            best_id = i;
        }
    }
    best_logits[thread] = best;
    best_ids[thread] = best_id;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            let other = best_logits[thread + half];
            let other_id = best_ids[thread + half];
            if other > best_logits[thread]
                || (other == best_logits[thread] && other_id < best_ids[thread]) {
                best_logits[thread] = other;
                best_ids[thread] = other_id;
            }
        }
    }
    if thread == 0u {
        // No logit above the lowest number: all NaN or −∞. The host sees an id outside the
        // vocabulary; the next replay's embedding must not.
        let position = token[0].y + 1u;
        token[0] = vec4<u32>(min(best_ids[0], params.vocab - 1u), position, token[0].z, token[0].w + 1u);
        picked[position % params.picks] = best_ids[0];
    }
}
