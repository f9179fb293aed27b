// cache[last key of token t, :] = x[t, :], four features a thread
struct Params {
    rows: vec2<u32>,
    fours: u32, // of a row
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>; // (all T)
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>; // (T, cols)
@group(0) @binding(4) var<storage, read_write> cache: array<Four>; // (capacity, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.fours {
        let row = tokens[params.rows.x + group.y].last_key;
        cache[row * params.fours + id.x] = packed(x[group.y * params.fours + id.x]);
    }
}
