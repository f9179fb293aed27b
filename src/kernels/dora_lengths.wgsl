// lengths[o] = ‖W[o, :] + scale · (A B)ᵀ[o, :]‖, LANES threads a row, sixteen columns a thread and turn:
// neighbouring threads are of neighbouring rows, so they read the same of A.
override LANES: u32 = 8u; // 1 where a thread is cheap and what all threads read the same is cheaper

struct Params {
    in_features: u32,
    first_out: u32, // of the part of W that is bound
    outs: u32, // of all of W
    rank: u32,
    a: u32, // where A begins in the parameters
    b: u32,
    scale: f32,
    part_rows: u32, // of that part
}

@group(0) @binding(1) var<uniform> params: Params;
// values, scales: a part of W (out, in)
@group(0) @binding(4) var<storage, read> parameters: array<f32>; // A (in, rank), B (rank, out)
@group(0) @binding(5) var<storage, read_write> lengths: array<f32>; // (out)

const ROWS = 32u;
var<workgroup> sums: array<f32, ROWS * 8u>;

// Of four columns of A, the numbers of one rank.
fn four_a(col: u32, r: u32) -> vec4<f32> {
    let at = params.a + col * params.rank + r;
    return vec4<f32>(
        parameters[at],
        parameters[at + params.rank],
        parameters[at + 2u * params.rank],
        parameters[at + 3u * params.rank],
    );
}

fn square(w: vec4<f32>, product: vec4<f32>, col: u32) -> f32 {
    let inside = vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.in_features);
    let value = select(vec4<f32>(), w + params.scale * product, inside);
    return dot(value, value);
}

// The squares of a row's columns from `lane` on.
fn squares(row: u32, lane: u32) -> f32 {
    let out = params.first_out + row;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    var sum = 0.0;
    for (var half = lane; half < blocks * 2u; half += LANES) {
        let col = half * 16u;
        let first = eight_weights(row * blocks + half / 2u, (half & 1u) * 2u);
        let second = eight_weights(row * blocks + half / 2u, (half & 1u) * 2u + 1u);
        var p0 = vec4<f32>();
        var p1 = vec4<f32>();
        var p2 = vec4<f32>();
        var p3 = vec4<f32>();
        for (var r = 0u; r < params.rank; r += 1u) {
            let b = parameters[params.b + r * params.outs + out];
            p0 += b * four_a(col, r);
            p1 += b * four_a(col + 4u, r);
            p2 += b * four_a(col + 8u, r);
            p3 += b * four_a(col + 12u, r);
        }
        sum += square(first.a, p0, col) + square(first.b, p1, col + 4u);
        sum += square(second.a, p2, col + 8u) + square(second.b, p3, col + 12u);
    }
    return sum;
}

@compute @workgroup_size(ROWS, LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.x * ROWS + local.x;
    let is_inside = row < params.part_rows;
    var sum = 0.0;
    if LANES == 1u {
        if is_inside {
            sum = squares(row, 0u);
        }
    } else {
        if is_inside {
            sum = squares(row, local.y);
        }
        sums[local.y * ROWS + local.x] = sum;
        workgroupBarrier();
        sum = 0.0;
        for (var lane = 0u; lane < LANES; lane += 1u) {
            sum += sums[lane * ROWS + local.x];
        }
    }
    if is_inside && local.y == 0u {
        lengths[params.first_out + row] = sqrt(sum);
    }
}
