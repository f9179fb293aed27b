// G[c] += Σ_t dY[t, c], the gradient of a bias; with a normalised input Σ_t dY[t, c] · X[t, c] · s[t],
// the gradient of a norm's weight, with the s of `rms_scale.wgsl`. Eight lanes of tokens by 32 columns.
override NORMED: bool = false;

struct Params {
    rows: vec2<u32>,
    cols: u32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dy: array<f32>; // (T, cols)
@group(0) @binding(3) var<storage, read> x: array<f32>; // (T, cols)
@group(0) @binding(4) var<storage, read> scales: array<f32>; // (T)
@group(0) @binding(5) var<storage, read_write> gradient: array<f32>; // (cols)

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
            if NORMED {
                sum += dy[at] * x[at] * scales[t];
            } else {
                sum += dy[at];
            }
        }
    }
    sums[local.y * COLUMNS + local.x] = sum;
    workgroupBarrier();
    if local.y == 0u && col < params.cols {
        for (var lane = 1u; lane < LANES; lane += 1u) {
            sum += sums[lane * COLUMNS + local.x];
        }
        gradient[col] += sum;
    }
}
