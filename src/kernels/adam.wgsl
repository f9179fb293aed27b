// Adam (Kingma and Ba, 2015) with decoupled weight decay (Loshchilov and Hutter, 2019):
// p ← p · (1 − lr·λ) − lr · c₁m / (√(c₂v) + ε), where c₁ = c₂ = 1 is MLX's form without bias
// correction.
struct Params {
    count: u32,
    beta1: f32,
    beta2: f32,
    rest1: f32, // 1 − β₁
    rest2: f32, // 1 − β₂
    eps: f32,
    weight_decay: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gradients: array<f32>; // (count)
@group(0) @binding(3) var<storage, read> clip: array<f32>; // factor, norm
@group(0) @binding(4) var<storage, read_write> parameters: array<f32>; // (count)
@group(0) @binding(5) var<storage, read_write> first: array<f32>; // (count)
@group(0) @binding(6) var<storage, read_write> second: array<f32>; // (count)

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
        let g = gradients[i] * factor;
        let m = params.beta1 * first[i] + params.rest1 * g;
        let v = params.beta2 * second[i] + params.rest2 * g * g;
        first[i] = m;
        second[i] = v;
        let kept = parameters[i] * (1.0 - step.learning_rate * params.weight_decay);
        let scale = sqrt(v * step.second_moment_scale) + params.eps;
        parameters[i] = kept - step.learning_rate * m * step.first_moment_scale / scale;
    }
}
