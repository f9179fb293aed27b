// Shared by two kernels of `attention_backward.rs`: what they are given.
struct Params {
    rows: vec2<u32>,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    scale: f32, // 1/√d
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>; // (T, heads·d)
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>; // (T, kv_heads·d)
@group(0) @binding(4) var<storage, read> v: array<vec4<f32>>; // (T, kv_heads·d)
@group(0) @binding(5) var<storage, read> dout: array<vec4<f32>>; // (T, heads·d)
@group(0) @binding(6) var<storage, read> tokens: array<Token>; // (T)
@group(0) @binding(7) var<storage, read> statistics: array<vec2<f32>>; // (T, heads): lse, delta
