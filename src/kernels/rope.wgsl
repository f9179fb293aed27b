// Turns the pair (x[i], x[i + d/2]) of every head by the angle of (position, i), in place.
struct Params {
    rows: vec2<u32>,
    cols: u32,
    head_dim: u32,
    direction: f32, // 1 turns forth, −1 back
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<Token>; // (all T)
@group(0) @binding(3) var<storage, read> table: array<vec2<f32>>; // (positions, d/2): cos, sin
@group(0) @binding(4) var<storage, read_write> x: array<f32>; // (T, heads·d)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(global_invocation_id) id: vec3<u32>) {
    let pair = id.x;
    if pair >= params.cols / 2u {
        return;
    }
    let half = params.head_dim / 2u;
    let i = pair % half;
    let position = tokens[params.rows.x + group.y].position;
    let turn = table[position * half + i];
    let sine = params.direction * turn.y;
    let first = group.y * params.cols + pair / half * params.head_dim + i;
    let a = x[first];
    let b = x[first + half];
    x[first] = a * turn.x - b * sine;
    x[first + half] = b * turn.x + a * sine;
}
