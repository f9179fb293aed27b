// cache[last key of token t, :] = x[t, :]
struct Params {
    rows: vec2<u32>,
    cols: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>; // (all T)
@group(0) @binding(3) var<storage, read> x: array<f32>; // (T, cols)
@group(0) @binding(4) var<storage, read_write> cache: array<f32>; // (capacity, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.cols {
        let row = tokens[params.rows.x + group.y].last_key;
        cache[row * params.cols + id.x] = x[group.y * params.cols + id.x];
    }
}
