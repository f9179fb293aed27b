// statistics[t, h] = (lse[t, h], dout[t, h]·out[t, h]): what both backward kernels of attention
// need of a row, one thread per token and head.
struct Params {
    rows: vec2<u32>,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    scale: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> out: array<vec4<f32>>; // (T, heads·d)
@group(0) @binding(3) var<storage, read> dout: array<vec4<f32>>; // (T, heads·d)
@group(0) @binding(4) var<storage, read> lse: array<f32>; // (T, heads)
@group(0) @binding(5) var<storage, read_write> statistics: array<vec2<f32>>; // (T, heads)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if i >= rows_in_use(params.rows) * params.heads {
        return;
    }
    let quads = params.head_dim / 4u;
    var delta = 0.0;
    for (var j = 0u; j < quads; j += 1u) {
        delta += dot(out[i * quads + j], dout[i * quads + j]);
    }
    statistics[i] = vec2(lse[i], delta);
}
