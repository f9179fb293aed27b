// Shared by the kernels of `attention.rs`: what they are given.
struct Params {
    rows: vec2<u32>,
    heads: u32,
    kv_heads: u32,
    quads: u32, // vec4s in a head, d/4
    scale: f32, // 1/√d
    want_lse: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>; // (T, heads·d)
@group(0) @binding(3) var<storage, read> k: array<Stored>; // (rows, kv_heads·d)
@group(0) @binding(4) var<storage, read> v: array<Stored>; // (rows, kv_heads·d)
@group(0) @binding(5) var<storage, read> tokens: array<Token>; // (all T)
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>; // (T, heads·d)
@group(0) @binding(7) var<storage, read_write> lse: array<f32>; // (T, heads) if wanted
