// Shared by every kernel: what changes from replay to replay. Twin of `gpu::Step`.
struct Step {
    tokens: u32,
    learning_rate: f32,
    gradient_scale: f32,
    first_moment_scale: f32,
    second_moment_scale: f32,
    update: u32,
    seed: u32,
}

@group(0) @binding(0) var<uniform> step: Step;

// How many rows of a tensor are in use; rows = (first token, most rows), twin of `kernels::Rows`.
fn rows_in_use(rows: vec2<u32>) -> u32 {
    return min(max(step.tokens, rows.x) - rows.x, rows.y);
}
