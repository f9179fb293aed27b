// What `matvec_rows.wgsl` takes from x, spread over eight lanes by `eight_broadcast.wgsl`.
var<private> squares = 0.0; // of what this lane loaded

fn one_value(col: u32) -> f32 {
    return x[params.x_at + col / 4u][col % 4u];
}

// x at `col` and after it, times the norm's weight; 0 past the end.
fn eight_x(col: u32, lane: u32) -> Eight {
    let own = col + lane;
    var v = select(0.0, one_value(own), own < params.in_features);
    if NORM {
        squares += v * v;
        v *= norm[own / 4u][own % 4u];
    }
    return spread(v);
}

// Of all of x, once all of it was taken.
fn all_squares() -> f32 {
    let all = spread(squares);
    return dot(all.a, vec4<f32>(1.0)) + dot(all.b, vec4<f32>(1.0));
}

// scale · h at `j` and after it, 0 past the end.
fn eight_h(j: u32, lane: u32) -> Eight {
    var h = 0.0;
    if j + lane < params.up.y {
        h = params.up_scale * up_h(j + lane);
    }
    return spread(h);
}
