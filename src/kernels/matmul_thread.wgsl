// What `matmul_rows.wgsl` and `matmul_quads.wgsl` share: the share of a thread, what it reads of X and where its
// sums go.
const THREADS = 8u;
const TOKENS = 16u; // of a workgroup
const ROWS = 8u; // of W, a thread

// Where a token's row of X begins; past the end the last one's.
fn row_of(token: u32) -> u32 {
    return (params.x_row + min(token, rows_in_use(params.rows) - 1u)) * params.in_features;
}

fn one_value(at: u32) -> f32 {
    return x[at];
}

fn store(token: u32, row: u32, sums: Eight) {
    if token >= rows_in_use(params.rows) {
        return;
    }
    for (var i = 0u; i < ROWS; i += 1u) {
        if row + i < params.part_rows {
            let out = params.first_out + row + i;
            let at = (params.y_row + token) * params.y_cols + out;
            var total = select(sums.b[i & 3u], sums.a[i & 3u], i < 4u);
            if params.has_bias != 0u {
                total += bias[out];
            }
            if params.has_residual != 0u {
                total += residual[at];
            }
            y[at] = total;
        }
    }
}
