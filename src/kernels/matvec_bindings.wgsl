// Shared by the kernels of `matvec.rs`: what they are given.
override NORM: bool = false; // x is normalised first
override GATED: bool = false; // two rows of W become silu(first) · second

struct Params {
    in_features: u32,
    out_features: u32,
    first_out: u32, // of the part of W that is bound
    part_rows: u32, // outputs of that part
    second: u32, // rows from the first of two to the second
    y_at: u32,
    x_at: u32, // in fours
    row_groups: u32, // workgroups that do rows of W; the others do columns of A
    has_bias: u32,
    has_residual: u32,
    eps: f32,
    up_scale: f32,
    up: vec4<u32>, // B's place, its rank, the place in x of what adds up to h, how many those are
    down: array<vec4<u32>, 3>, // A's place, its rank, the place of x A in y, its first workgroup
}

@group(0) @binding(1) var<uniform> params: Params;
// values, scales: a part of W (out, in)
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>; // (in), then the h of `up`
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>; // (in)
@group(0) @binding(6) var<storage, read> parameters: array<f32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>; // (out)
@group(0) @binding(8) var<storage, read> residual: array<f32>; // (out)
@group(0) @binding(9) var<storage, read_write> y: array<f32>; // (out), then every x A

// x[col], 0 past its end; neither normalised.
fn one_x(col: u32) -> f32 {
    return select(0.0, x[params.x_at + col / 4u][col % 4u], col < params.in_features);
}

// What x times the norm's weight is still to be multiplied by.
fn norm_scale(squares: f32) -> f32 {
    return inverseSqrt(squares / f32(params.in_features) + params.eps);
}

// h[j] of `up`.
fn up_h(j: u32) -> f32 {
    var total = 0.0;
    for (var i = 0u; i < params.up.w; i += 1u) {
        let at = params.up.z + i * params.up.y + j;
        total += x[at / 4u][at % 4u];
    }
    return total;
}

// Which of `down` a workgroup past those of the rows works on.
fn down_of(group: u32) -> vec4<u32> {
    var found = params.down[0];
    for (var i = 1u; i < 3u; i += 1u) {
        if group >= params.down[i].w {
            found = params.down[i];
        }
    }
    return found;
}

fn store(row: u32, first: f32, second: f32) {
    let out = params.first_out + row;
    var value = first;
    if GATED {
        value = first / (1.0 + exp(-first)) * second;
    }
    if params.has_bias != 0u {
        value += bias[out];
    }
    if params.has_residual != 0u {
        value += residual[params.y_at + out];
    }
    y[params.y_at + out] = value;
}
