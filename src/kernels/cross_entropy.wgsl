// Loss and gradient of a chunk of logits, in place, one workgroup a row:
// losses[t] = weight · (log Σ exp(logits) − logits[target]),
// logits ← weight · (softmax(logits) − onehot(target)).
struct Params {
    rows: vec2<u32>,
    vocab: u32,
    stride: u32, // of a row of logits
    want_gradient: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> targets: array<vec2<u32>>; // (all T): id, weight
@group(0) @binding(3) var<storage, read_write> logits: array<f32>; // (rows, stride)
@group(0) @binding(4) var<storage, read_write> losses: array<f32>; // (all T)

const THREADS = 256u;
const LOWEST = -3.4028234e38;
var<workgroup> shared_values: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x * params.stride;
    let token = params.rows.x + group.x;
    let goal = targets[token].x;
    let weight = bitcast<f32>(targets[token].y);
    if weight == 0.0 {
        if thread == 0u {
            losses[token] = 0.0;
        }
        if params.want_gradient != 0u {
            for (var i = thread; i < params.vocab; i += THREADS) {
                logits[row + i] = 0.0;
            }
        }
        return;
    }

    var highest = LOWEST;
    for (var i = thread; i < params.vocab; i += THREADS) {
        highest = max(highest, logits[row + i]);
    }
    shared_values[thread] = highest;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            shared_values[thread] = max(shared_values[thread], shared_values[thread + half]);
        }
    }
    workgroupBarrier();
    highest = shared_values[0];
    workgroupBarrier();

    var sum = 0.0;
    for (var i = thread; i < params.vocab; i += THREADS) {
        sum += exp(logits[row + i] - highest);
    }
    shared_values[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            shared_values[thread] += shared_values[thread + half];
        }
    }
    workgroupBarrier();
    let total = shared_values[0];

    if thread == 0u {
        losses[token] = weight * (highest + log(total) - logits[row + goal]);
    }
    // The loss is read before the gradient takes the logits' place.
    storageBarrier();
    workgroupBarrier();
    if params.want_gradient != 0u {
        for (var i = thread; i < params.vocab; i += THREADS) {
            let onehot = select(0.0, 1.0, i == goal);
            logits[row + i] = weight * (exp(logits[row + i] - highest) / total - onehot);
        }
    }
}
