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

// Adds eight tokens' products to eight rows, which stand at `first` among the sums.
fn add(sums: ptr<function, array<Eight, ROWS>>, first: u32, dys: Tokens, xs: Tokens) {
    (*sums)[first + 0u] = add_weighted(
        (*sums)[first + 0u],
        Eight(vec4<f32>(dys[0].a.x, dys[1].a.x, dys[2].a.x, dys[3].a.x), vec4<f32>(dys[4].a.x, dys[5].a.x, dys[6].a.x, dys[7].a.x)),
        xs,
    );
    (*sums)[first + 1u] = add_weighted(
        (*sums)[first + 1u],
        Eight(vec4<f32>(dys[0].a.y, dys[1].a.y, dys[2].a.y, dys[3].a.y), vec4<f32>(dys[4].a.y, dys[5].a.y, dys[6].a.y, dys[7].a.y)),
        xs,
    );
    (*sums)[first + 2u] = add_weighted(
        (*sums)[first + 2u],
        Eight(vec4<f32>(dys[0].a.z, dys[1].a.z, dys[2].a.z, dys[3].a.z), vec4<f32>(dys[4].a.z, dys[5].a.z, dys[6].a.z, dys[7].a.z)),
        xs,
    );
    (*sums)[first + 3u] = add_weighted(
        (*sums)[first + 3u],
        Eight(vec4<f32>(dys[0].a.w, dys[1].a.w, dys[2].a.w, dys[3].a.w), vec4<f32>(dys[4].a.w, dys[5].a.w, dys[6].a.w, dys[7].a.w)),
        xs,
    );
    (*sums)[first + 4u] = add_weighted(
        (*sums)[first + 4u],
        Eight(vec4<f32>(dys[0].b.x, dys[1].b.x, dys[2].b.x, dys[3].b.x), vec4<f32>(dys[4].b.x, dys[5].b.x, dys[6].b.x, dys[7].b.x)),
        xs,
    );
    (*sums)[first + 5u] = add_weighted(
        (*sums)[first + 5u],
        Eight(vec4<f32>(dys[0].b.y, dys[1].b.y, dys[2].b.y, dys[3].b.y), vec4<f32>(dys[4].b.y, dys[5].b.y, dys[6].b.y, dys[7].b.y)),
        xs,
    );
    (*sums)[first + 6u] = add_weighted(
        (*sums)[first + 6u],
        Eight(vec4<f32>(dys[0].b.z, dys[1].b.z, dys[2].b.z, dys[3].b.z), vec4<f32>(dys[4].b.z, dys[5].b.z, dys[6].b.z, dys[7].b.z)),
        xs,
    );
    (*sums)[first + 7u] = add_weighted(
        (*sums)[first + 7u],
        Eight(vec4<f32>(dys[0].b.w, dys[1].b.w, dys[2].b.w, dys[3].b.w), vec4<f32>(dys[4].b.w, dys[5].b.w, dys[6].b.w, dys[7].b.w)),
        xs,
    );
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
