// `weight_gradient.wgsl` for the adapters of `attention_rows.wgsl` and rows of whole fours: no workgroup memory;
// a thread does eight columns of sixteen rows of dW in registers, eight tokens a turn, whose outputs'
// gradients the lanes load for one another.

@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // (rows, in)
@group(0) @binding(3) var<storage, read> dy: array<vec4<f32>>; // (rows, out)
@group(0) @binding(4) var<storage, read_write> dw: array<vec4<f32>>; // a part of (out, in), rows of `stride`

const TOKENS = 8u; // a turn
const ROWS = 16u; // of dW, a workgroup
const QUADS = 2u; // fours of columns, a thread
alias Tokens = array<Eight, TOKENS>;

// Eight outputs' gradients of a token, or zeros past the end.
fn dy_of(token: u32, tokens: u32, row: u32) -> Eight {
    let at = ((params.dy_row + min(token, tokens - 1u)) * params.dy_cols + params.first_out + row) / 4u;
    let there = token < tokens;
    return Eight(select(vec4<f32>(), dy[at], there), select(vec4<f32>(), dy[at + 1u], there));
}

fn dys(tile: u32, tokens: u32, row: u32, lane: u32) -> Tokens {
    return exchanged(dy_of(tile + lane, tokens, row), dy_of(tile + lane + 4u, tokens, row));
}

// Eight columns of a token; past the end the last ones.
fn x_of(token: u32, tokens: u32, quad: u32) -> Eight {
    let at = (params.x_row + min(token, tokens - 1u)) * params.in_features / 4u;
    let last = params.in_features / 4u - 1u;
    return Eight(x[at + min(quad, last)], x[at + min(quad + 1u, last)]);
}

// What four tokens have of four rows, row by row.
fn by_row(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(a, b, c, d));
}

// Adds eight tokens' products to eight rows, which stand at `first` among the sums.
fn add(sums: ptr<function, array<Eight, ROWS>>, first: u32, dys: Tokens, xs: Tokens) {
    let a = by_row(dys[0].a, dys[1].a, dys[2].a, dys[3].a);
    let b = by_row(dys[0].b, dys[1].b, dys[2].b, dys[3].b);
    let further_a = by_row(dys[4].a, dys[5].a, dys[6].a, dys[7].a);
    let further_b = by_row(dys[4].b, dys[5].b, dys[6].b, dys[7].b);
    (*sums)[first + 0u] = add_weighted((*sums)[first + 0u], Eight(a[0], further_a[0]), xs);
    (*sums)[first + 1u] = add_weighted((*sums)[first + 1u], Eight(a[1], further_a[1]), xs);
    (*sums)[first + 2u] = add_weighted((*sums)[first + 2u], Eight(a[2], further_a[2]), xs);
    (*sums)[first + 3u] = add_weighted((*sums)[first + 3u], Eight(a[3], further_a[3]), xs);
    (*sums)[first + 4u] = add_weighted((*sums)[first + 4u], Eight(b[0], further_b[0]), xs);
    (*sums)[first + 5u] = add_weighted((*sums)[first + 5u], Eight(b[1], further_b[1]), xs);
    (*sums)[first + 6u] = add_weighted((*sums)[first + 6u], Eight(b[2], further_b[2]), xs);
    (*sums)[first + 7u] = add_weighted((*sums)[first + 7u], Eight(b[3], further_b[3]), xs);
}

fn store(row: u32, quad: u32, sum: Eight) {
    if row >= params.part_rows {
        return;
    }
    let at = row * params.stride / 4u + quad;
    if quad * 4u < params.in_features {
        dw[at] += sum.a;
    }
    if (quad + 1u) * 4u < params.in_features {
        dw[at + 1u] += sum.b;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tokens = rows_in_use(params.rows);
    let row = group.y * ROWS;
    let quad = (group.x * LANES + lane) * QUADS;
    let order = row_order(lane);
    var sums: array<Eight, ROWS>;
    for (var tile = 0u; tile < tokens; tile += TOKENS) {
        let own = tile + order;
        let xs = Tokens(
            x_of(own.x, tokens, quad),
            x_of(own.y, tokens, quad),
            x_of(own.z, tokens, quad),
            x_of(own.w, tokens, quad),
            x_of(own.x + 4u, tokens, quad),
            x_of(own.y + 4u, tokens, quad),
            x_of(own.z + 4u, tokens, quad),
            x_of(own.w + 4u, tokens, quad),
        );
        add(&sums, 0u, dys(tile, tokens, row, lane), xs);
        add(&sums, 8u, dys(tile, tokens, row + 8u, lane), xs);
    }

    store(row + 0u, quad, sums[0]);
    store(row + 1u, quad, sums[1]);
    store(row + 2u, quad, sums[2]);
    store(row + 3u, quad, sums[3]);
    store(row + 4u, quad, sums[4]);
    store(row + 5u, quad, sums[5]);
    store(row + 6u, quad, sums[6]);
    store(row + 7u, quad, sums[7]);
    store(row + 8u, quad, sums[8]);
    store(row + 9u, quad, sums[9]);
    store(row + 10u, quad, sums[10]);
    store(row + 11u, quad, sums[11]);
    store(row + 12u, quad, sums[12]);
    store(row + 13u, quad, sums[13]);
    store(row + 14u, quad, sums[14]);
    store(row + 15u, quad, sums[15]);
}
