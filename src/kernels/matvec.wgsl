// One token's product with W and what surrounds it: eight rows a workgroup, eight lanes a row, a
// block of 32 columns a lane and turn, so that neighbouring lanes load neighbouring 16 bytes. The
// eight lanes of a row see all of x between them, so they sum its squares for the norm on the way.

const LANES = 8u;
const ROWS = 8u;
const THREADS = 64u;
const COLUMNS = 8u; // of A, a workgroup
// Of each thread: first row, second row, squares, h B.
var<workgroup> partial: array<vec4<f32>, THREADS>;
var<workgroup> column_sums: array<array<f32, THREADS>, COLUMNS + 1u>; // the last are the squares

fn four_x(col: u32) -> vec4<f32> {
    let inside = vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.in_features);
    return select(vec4<f32>(), x[params.x_at + col / 4u], inside);
}

// A quarter of a block's share of two rows and of the squares.
fn quarter_of(row_block: u32, block: u32, quarter: u32) -> vec3<f32> {
    let col = block * BLOCK + quarter * 8u;
    var a = four_x(col);
    var b = four_x(col + 4u);
    var sums = vec3<f32>();
    if NORM {
        sums.z = dot(a, a) + dot(b, b);
        a *= norm[col / 4u];
        b *= norm[col / 4u + 1u];
    }
    let w = eight_weights(row_block, quarter);
    sums.x = dot(w.a, a) + dot(w.b, b);
    if GATED {
        let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
        let other = eight_weights(row_block + params.second * blocks, quarter);
        sums.y = dot(other.a, a) + dot(other.b, b);
    }
    return sums;
}

// Eight columns of an A.
fn columns(group: u32, thread: u32) {
    let down = down_of(group);
    let rank = down.y;
    let first = (group - down.w) * COLUMNS;
    let count = min(rank - first, COLUMNS);
    var sums: array<f32, COLUMNS + 1u>;
    for (var i = thread; i < params.in_features; i += THREADS) {
        var value = one_x(i);
        if NORM {
            sums[COLUMNS] += value * value;
            value *= norm[i / 4u][i % 4u];
        }
        for (var j = 0u; j < COLUMNS; j += 1u) {
            if j < count {
                sums[j] += value * parameters[down.x + i * rank + first + j];
            }
        }
    }
    for (var j = 0u; j <= COLUMNS; j += 1u) {
        column_sums[j][thread] = sums[j];
    }
    workgroupBarrier();
    if thread < count {
        var total = 0.0;
        var squares = 0.0;
        for (var i = 0u; i < THREADS; i += 1u) {
            total += column_sums[thread][i];
            squares += column_sums[COLUMNS][i];
        }
        if NORM {
            total *= norm_scale(squares);
        }
        y[down.z + first + thread] = total;
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if group.x >= params.row_groups {
        columns(group.x, thread);
        return;
    }
    let lane = thread % LANES;
    let row = group.x * ROWS + thread / LANES;
    let blocks = (params.in_features + BLOCK - 1u) / BLOCK;
    var sums = vec3<f32>();
    var up = 0.0;
    if row < params.part_rows {
        for (var block = lane; block < blocks; block += LANES) {
            let row_block = row * blocks + block;
            sums += quarter_of(row_block, block, 0u);
            sums += quarter_of(row_block, block, 1u);
            sums += quarter_of(row_block, block, 2u);
            sums += quarter_of(row_block, block, 3u);
        }
        let b = params.up.x + params.first_out + row;
        for (var j = lane; j < params.up.y; j += LANES) {
            up += up_h(j) * parameters[b + j * params.out_features];
        }
    }
    partial[thread] = vec4<f32>(sums, up);
    workgroupBarrier();
    if lane == 0u && row < params.part_rows {
        var total = partial[thread];
        for (var i = 1u; i < LANES; i += 1u) {
            total += partial[thread + i];
        }
        var scale = 1.0;
        if NORM {
            scale = norm_scale(total.z);
        }
        store(row, total.x * scale + params.up_scale * total.w, total.y * scale);
    }
}
