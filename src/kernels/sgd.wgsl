// Gradient descent with momentum as PyTorch and MLX have it:
// g ← g + λp, v ← μv + g, p ← p − lr · (v, or g + μv with Nesterov's), and v = g without momentum.
override MOMENTUM: bool = false;

struct Params {
    count: u32,
    momentum: f32,
    nesterov: u32,
    weight_decay: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gradients: array<f32>; // (count)
@group(0) @binding(3) var<storage, read> clip: array<f32>; // factor, norm
@group(0) @binding(4) var<storage, read_write> parameters: array<f32>; // (count)
@group(0) @binding(5) var<storage, read_write> velocity: array<f32>; // (count), with momentum

const THREADS = 256u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    if !is_sound() {
        return;
    }
    let factor = gradient_factor();
    for (var i = id.x; i < params.count; i += groups.x * THREADS) {
        let p = parameters[i];
        var change = gradients[i] * factor + params.weight_decay * p;
        if MOMENTUM {
            let v = params.momentum * velocity[i] + change;
            velocity[i] = v;
            change = select(v, change + params.momentum * v, params.nesterov != 0u);
        }
        parameters[i] = p - step.learning_rate * change;
    }
}
