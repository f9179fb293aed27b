// G[i, j] += scale · Σ_t wide[t, i] · narrow[t, j], tokens in order: a thread does eight columns j
// of a row i. dA = Xᵀ dH; with other strides dB = (X A)ᵀ dY.
struct Params {
    rows: vec2<u32>,
    n: u32,
    rank: u32,
    offset: u32, // of G in `gradient`
    stride_i: u32,
    stride_j: u32,
    scale: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> wide: array<f32>; // (T, n)
@group(0) @binding(3) var<storage, read> narrow: array<f32>; // (T, rank)
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>;

const COLUMNS = 8u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let i = id.x;
    if i >= params.n {
        return;
    }
    let first = group.y * COLUMNS;
    let columns = min(params.rank - first, COLUMNS);
    let tokens = rows_in_use(params.rows);
    var sums: array<f32, COLUMNS>;
    for (var t = 0u; t < tokens; t += 1u) {
        let value = wide[t * params.n + i];
        for (var j = 0u; j < COLUMNS; j += 1u) {
            if j < columns {
                sums[j] += value * narrow[t * params.rank + first + j];
            }
        }
    }
    let at = params.offset + i * params.stride_i + first * params.stride_j;
    for (var j = 0u; j < COLUMNS; j += 1u) {
        if j < columns {
            gradient[at + j * params.stride_j] += params.scale * sums[j];
        }
    }
}
