// out[t, i] = a[t, i] + b[t, i]
struct Params {
    rows: vec2<u32>,
    cols: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read> b: array<f32>; // (T, cols)
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // (T, cols)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.cols {
        let i = group.y * params.cols + id.x;
        out[i] = a[i] + b[i];
    }
}
