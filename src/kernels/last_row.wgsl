// y[0, :] = x[T − 1, :], of the T tokens of this replay.
struct Params {
    rows: vec2<u32>,
    cols: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (1, cols)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let rows = rows_in_use(params.rows);
    if rows > 0u && id.x < params.cols {
        y[id.x] = x[(rows - 1u) * params.cols + id.x];
    }
}
