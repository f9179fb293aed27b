// G[c] += Σ_t dY[t, c], the gradient of a bias; of a norm's weight it is Σ_t dY[t, c] · X[t, c] · s[t], with
// the s of `rms_scale.wgsl`, and of a length that a row is scaled to Σ_t dY[t, c] · X[t, c] / s[c]. Eight
// lanes of tokens by 32 columns.
override KIND: u32 = 0u; // 0 a bias, 1 a norm's weight, 2 a length

struct Params {
    rows: vec2<u32>,
    cols: u32,
    offset: u32, // where G begins
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dy: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read> x: array<f32>; // (T, cols)
@group(0) @binding(4) var<storage, read> scales: array<f32>; // (T) or (cols)
@group(0) @binding(5) var<storage, read_write> gradient: array<f32>; // (cols) of it

const COLUMNS = 32u;
const LANES = 8u;
var<workgroup> sums: array<f32, COLUMNS * LANES>;

@compute @workgroup_size(COLUMNS, LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let col = group.x * COLUMNS + local.x;
    let tokens = rows_in_use(params.rows);
    var sum = 0.0;
    if col < params.cols {
        for (var t = local.y; t < tokens; t += LANES) {
            let at = t * params.cols + col;
            var value = dy[at];
            if KIND != 0u {
                value *= x[at];
            }
            if KIND == 1u {
                value *= scales[t];
            }
            sum += value;
        }
    }
    sums[local.y * COLUMNS + local.x] = sum;
    workgroupBarrier();
    if local.y == 0u && col < params.cols {
        for (var lane = 1u; lane < LANES; lane += 1u) {
            sum += sums[lane * COLUMNS + local.x];
        }
        if KIND == 2u {
            // As `dora_scale.wgsl` divides.
            sum /= max(scales[col], 1e-30);
        }
        gradient[params.offset + col] += sum;
    }
}
