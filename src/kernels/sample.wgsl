// Chooses the token of the next replay from the logits, in one workgroup: penalty, temperature, top-k,
// top-p, min-p, then a draw. No sorting: what top-k and top-p keep is what lies above a threshold,
// which a search over the bits of the logits finds. The draw is the largest of logit + Gumbel noise
// among what is kept, which follows the softmax (Gumbel, 1954; Maddison et al., 2014). NaN never wins.

struct Params {
    vocab: u32,
    picks: u32,
}

struct Sampling {
    temperature: f32, // 0: the most likely token
    top_k: u32, // 0: all
    top_p: f32,
    min_p: f32,
    repeat_penalty: f32,
    pad: u32,
    seed: vec2<u32>,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sampling: Sampling;
@group(0) @binding(3) var<storage, read> logits: array<f32>; // (1, vocab)
@group(0) @binding(4) var<storage, read_write> token: array<vec4<u32>>; // (1)
@group(0) @binding(5) var<storage, read_write> seen: array<u32>; // (vocab) bits
@group(0) @binding(6) var<storage, read_write> picked: array<u32>; // (picks), by position, a ring

const THREADS = 256u;
const WAYS = 8u;
const LOWEST = -3.4028234e38;
const NOBODY = 0xffffffffu;
var<workgroup> best_scores: array<f32, THREADS>;
var<workgroup> best_ids: array<u32, THREADS>;
var<workgroup> partial: array<f32, THREADS * WAYS>;
var<workgroup> totals: array<f32, WAYS>;

// A logit after the penalty (Keskar et al., 2019).
fn logit_of(id: u32) -> f32 {
    let logit = logits[id];
    let penalty = sampling.repeat_penalty;
    if penalty == 1.0 || ((seen[id / 32u] >> (id % 32u)) & 1u) == 0u {
        return logit;
    }
    return select(logit * penalty, logit / penalty, logit > 0.0);
}

// In the order of the numbers; 0 is NaN alone.
fn key_of(logit: f32) -> u32 {
    let bits = bitcast<u32>(logit);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return 0u;
    }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

// The best score of all threads and its id, of equals the lowest.
fn best_of(thread: u32, score: f32, id: u32) -> u32 {
    best_scores[thread] = score;
    best_ids[thread] = id;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            let other = best_scores[thread + half];
            let other_id = best_ids[thread + half];
            if other > best_scores[thread]
                || (other == best_scores[thread] && other_id < best_ids[thread]) {
                best_scores[thread] = other;
                best_ids[thread] = other_id;
            }
        }
    }
    workgroupBarrier();
    return best_ids[0];
}

// What lies at or above each of eight thresholds: tokens, or their weights if `weigh`.
fn above(thread: u32, first: u32, step: u32, floor: u32, weigh: bool, highest: f32) {
    let low = vec4<u32>(0u, 1u, 2u, 3u) * step + first;
    let high = vec4<u32>(4u, 5u, 6u, 7u) * step + first;
    var low_sums = vec4<f32>();
    var high_sums = vec4<f32>();
    for (var id = thread; id < params.vocab; id += THREADS) {
        let logit = logit_of(id);
        let key = key_of(logit);
        var value = 1.0;
        if weigh {
            value = exp((logit - highest) / sampling.temperature);
        }
        if key >= floor {
            low_sums += select(vec4<f32>(), vec4<f32>(value), vec4<u32>(key) >= low);
            high_sums += select(vec4<f32>(), vec4<f32>(value), vec4<u32>(key) >= high);
        }
    }
    for (var way = 0u; way < 4u; way += 1u) {
        partial[way * THREADS + thread] = low_sums[way];
        partial[(way + 4u) * THREADS + thread] = high_sums[way];
    }
    workgroupBarrier();
    if thread < WAYS {
        var total = 0.0;
        for (var i = 0u; i < THREADS; i += 1u) {
            total += partial[thread * THREADS + i];
        }
        totals[thread] = total;
    }
    workgroupBarrier();
}

// The highest key that has at least `share` of what lies at or above `floor` at or above it, or
// without `weigh` so many tokens.
fn threshold(thread: u32, floor: u32, weigh: bool, share: f32, highest: f32) -> u32 {
    var wanted = share;
    var found = 0u;
    for (var bit = 29; bit > -3; bit -= 3) {
        let step = 1u << u32(max(bit, 0));
        above(thread, found, step, floor, weigh, highest);
        if bit == 29 && weigh {
            wanted *= totals[0];
        }
        for (var way = WAYS - 1u; way > 0u; way -= 1u) {
            if totals[way] >= wanted {
                found += way * step;
                break;
            }
        }
        workgroupBarrier();
    }
    return max(found, floor);
}

// Jarzynski & Olano, 2020: pcg4d.
fn hash(seed: vec4<u32>) -> u32 {
    var v = seed * 1664525u + 1013904223u;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v ^= v >> vec4<u32>(16u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return v.w + v.y * v.z;
}

fn gumbel(position: u32, id: u32) -> f32 {
    let bits = hash(vec4<u32>(sampling.seed, position, id)) >> 9u;
    return -log(-log((f32(bits) + 0.5) / 8388608.0));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    let position = token[0].y + 1u;
    var best = LOWEST;
    var best_id = NOBODY;
    for (var id = thread; id < params.vocab; id += THREADS) {
        let logit = logit_of(id);
        if logit > best {
            best = logit;
            best_id = id;
        }
    }
    var pick = best_of(thread, best, best_id);
    if sampling.temperature > 0.0 {
        let highest = best_scores[0];
        var floor = 1u;
        if sampling.top_k > 0u && sampling.top_k < params.vocab {
            floor = threshold(thread, floor, false, f32(sampling.top_k), highest);
        }
        if sampling.top_p < 1.0 {
            floor = threshold(thread, floor, true, sampling.top_p, highest);
        }
        workgroupBarrier(); // everybody has read `highest`
        best = LOWEST;
        best_id = NOBODY;
        for (var id = thread; id < params.vocab; id += THREADS) {
            let logit = logit_of(id);
            let scaled = (logit - highest) / sampling.temperature;
            if key_of(logit) >= floor && exp(scaled) >= sampling.min_p {
                let score = scaled + gumbel(position, id);
                if score > best {
                    best = score;
                    best_id = id;
                }
            }
        }
        pick = best_of(thread, best, best_id);
    }
    if thread == 0u {
        // No logit above the lowest number: all NaN or −∞. The host sees an id outside the
        // vocabulary; the next replay's embedding must not.
        let id = min(pick, params.vocab - 1u);
        token[0] = vec4<u32>(id, position, token[0].z, token[0].w + 1u);
        seen[id / 32u] |= 1u << (id % 32u);
        picked[position % params.picks] = pick;
    }
}
