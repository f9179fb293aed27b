// What `matvec_rows.wgsl` takes from x, broadcast among eight lanes.
var<private> squares = 0.0; // of what this lane loaded

// Loads a word of each cache line of some rows, all of which lie side by side: a CPU fetches them ahead
// then, as it does not where 64 rows are read column by column. What it returns must be used.
fn touch(first: u32, rows: u32, lane: u32) -> u32 {
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    let loads = blocks * (8u >> FORMAT); // of 16 bytes, a row
    let end = (first + rows) * loads;
    var all = 0u;
    for (var i = first * loads + lane * 4u; i < end; i += THREADS * 4u) {
        all |= values[i].x;
    }
    return all;
}

// Four columns of a block of x for each lane, times the norm's weight; 0 past the end.
fn own_x(block: u32, lane: u32) -> vec4<f32> {
    let four = block * 8u + lane;
    let inside = vec4<u32>(four * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.in_features);
    var v = select(vec4<f32>(), x[params.x_at + four], inside);
    if NORM {
        squares += dot(v, v);
        v = select(v, v * norm[four], inside);
    }
    return v;
}

// A quarter of a block of x, for every lane.
fn eight_x(own: vec4<f32>, block: u32, quarter: u32) -> Eight {
    switch quarter {
        case 0u: {
            return Eight(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u));
        }
        case 1u: {
            return Eight(subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u));
        }
        case 2u: {
            return Eight(subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u));
        }
        default: {
            return Eight(subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u));
        }
    }
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
