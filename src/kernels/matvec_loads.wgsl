// What `matvec_rows.wgsl` takes from x, each thread for itself; the twin is `matvec_broadcast.wgsl`.
var<private> squares = 0.0;

fn four_x(col: u32) -> vec4<f32> {
    let inside = vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.in_features);
    var v = select(vec4<f32>(), x[params.x_at + col / 4u], inside);
    if NORM {
        squares += dot(v, v);
        v = select(v, v * norm[col / 4u], inside);
    }
    return v;
}

// Nothing: what it gains was measured on llvmpipe alone, and a GPU would load twice.
fn touch(first: u32, rows: u32, lane: u32) -> u32 {
    return 0u;
}

// No lane has any of its own.
fn own_x(block: u32, lane: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn eight_x(own: vec4<f32>, block: u32, quarter: u32) -> Eight {
    let col = block * BLOCK + quarter * 8u;
    return Eight(four_x(col), four_x(col + 4u));
}

fn all_squares() -> f32 {
    return squares;
}

fn one_h(j: u32) -> f32 {
    if j < params.up.y {
        return params.up_scale * up_h(j);
    }
    return 0.0;
}

fn eight_h(j: u32, lane: u32) -> Eight {
    return Eight(
        vec4<f32>(one_h(j), one_h(j + 1u), one_h(j + 2u), one_h(j + 3u)),
        vec4<f32>(one_h(j + 4u), one_h(j + 5u), one_h(j + 6u), one_h(j + 7u)),
    );
}
