// `weight_gradient.wgsl` for the adapters of `matmul_rows.wgsl`: no workgroup memory; a thread does eight
// columns of sixteen rows of dW in registers, token by token. `eight_values` is that of
// `eight_broadcast.wgsl` or of `eight_loads.wgsl`.

const THREADS = 8u;
const ROWS = 16u; // of dW, a workgroup
const COLUMNS = 8u; // a thread

fn one_value(at: u32) -> f32 {
    return dy[at];
}

// A token's eight columns; past the end the last one.
fn columns_of(row: u32, col: u32) -> Eight {
    let last = vec4<u32>(params.in_features - 1u);
    let low = vec4<u32>(row) + min(vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u), last);
    let high = vec4<u32>(row) + min(vec4<u32>(col) + vec4<u32>(4u, 5u, 6u, 7u), last);
    return Eight(
        vec4<f32>(x[low.x], x[low.y], x[low.z], x[low.w]),
        vec4<f32>(x[high.x], x[high.y], x[high.z], x[high.w]),
    );
}

fn add(sum: Eight, d: f32, v: Eight) -> Eight {
    return Eight(sum.a + d * v.a, sum.b + d * v.b);
}

fn store(row: u32, col: u32, sum: Eight) {
    if row >= params.part_rows {
        return;
    }
    for (var i = 0u; i < COLUMNS; i += 1u) {
        if col + i < params.in_features {
            dw[row * params.stride + col + i] += select(sum.b[i & 3u], sum.a[i & 3u], i < 4u);
        }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let lane = thread;
    let tokens = rows_in_use(params.rows);
    let row = group.y * ROWS;
    let col = (group.x * THREADS + thread) * COLUMNS;
    let low_count = params.part_rows - row;
    let high_count = max(low_count, 8u) - 8u;

    var sum0 = Eight();
    var sum1 = Eight();
    var sum2 = Eight();
    var sum3 = Eight();
    var sum4 = Eight();
    var sum5 = Eight();
    var sum6 = Eight();
    var sum7 = Eight();
    var sum8 = Eight();
    var sum9 = Eight();
    var sum10 = Eight();
    var sum11 = Eight();
    var sum12 = Eight();
    var sum13 = Eight();
    var sum14 = Eight();
    var sum15 = Eight();
    for (var token = 0u; token < tokens; token += 1u) {
        let at = (params.dy_row + token) * params.dy_cols + params.first_out + row;
        let low = eight_values(at, low_count, lane);
        let high = eight_values(at + 8u, high_count, lane);
        let v = columns_of((params.x_row + token) * params.in_features, col);
        sum0 = add(sum0, low.a.x, v);
        sum1 = add(sum1, low.a.y, v);
        sum2 = add(sum2, low.a.z, v);
        sum3 = add(sum3, low.a.w, v);
        sum4 = add(sum4, low.b.x, v);
        sum5 = add(sum5, low.b.y, v);
        sum6 = add(sum6, low.b.z, v);
        sum7 = add(sum7, low.b.w, v);
        sum8 = add(sum8, high.a.x, v);
        sum9 = add(sum9, high.a.y, v);
        sum10 = add(sum10, high.a.z, v);
        sum11 = add(sum11, high.a.w, v);
        sum12 = add(sum12, high.b.x, v);
        sum13 = add(sum13, high.b.y, v);
        sum14 = add(sum14, high.b.z, v);
        sum15 = add(sum15, high.b.w, v);
    }

    store(row + 0u, col, sum0);
    store(row + 1u, col, sum1);
    store(row + 2u, col, sum2);
    store(row + 3u, col, sum3);
    store(row + 4u, col, sum4);
    store(row + 5u, col, sum5);
    store(row + 6u, col, sum6);
    store(row + 7u, col, sum7);
    store(row + 8u, col, sum8);
    store(row + 9u, col, sum9);
    store(row + 10u, col, sum10);
    store(row + 11u, col, sum11);
    store(row + 12u, col, sum12);
    store(row + 13u, col, sum13);
    store(row + 14u, col, sum14);
    store(row + 15u, col, sum15);
}
