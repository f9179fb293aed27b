// What the kernels of the backward share that keep all in registers, as `attention_rows.wgsl` does: heads of
// up to 64, eight rows a turn, which the lanes load for one another.

override EIGHTS: u32; // of a head, d/8
const MOST_EIGHTS = 8u;
const ROWS = 8u; // a turn
alias Head = array<Eight, MOST_EIGHTS>;
// (eights of a head, rows)
alias HeadRows = array<array<Eight, ROWS>, MOST_EIGHTS>;

// Eight values of a row each; past a head's end there are none.

fn q_eight(at: u32, e: u32) -> Eight {
    if e < EIGHTS {
        return Eight(q[at + 2u * e], q[at + 2u * e + 1u]);
    }
    return Eight();
}

fn k_eight(at: u32, e: u32) -> Eight {
    if e < EIGHTS {
        return Eight(k[at + 2u * e], k[at + 2u * e + 1u]);
    }
    return Eight();
}

fn v_eight(at: u32, e: u32) -> Eight {
    if e < EIGHTS {
        return Eight(v[at + 2u * e], v[at + 2u * e + 1u]);
    }
    return Eight();
}

fn dout_eight(at: u32, e: u32) -> Eight {
    if e < EIGHTS {
        return Eight(dout[at + 2u * e], dout[at + 2u * e + 1u]);
    }
    return Eight();
}

// The products of a head with those of eight rows.
fn products(head: Head, rows: HeadRows) -> Eight {
    var sums = Eight();
    sums = add_products(sums, head[0], rows[0]);
    sums = add_products(sums, head[1], rows[1]);
    sums = add_products(sums, head[2], rows[2]);
    sums = add_products(sums, head[3], rows[3]);
    sums = add_products(sums, head[4], rows[4]);
    sums = add_products(sums, head[5], rows[5]);
    sums = add_products(sums, head[6], rows[6]);
    sums = add_products(sums, head[7], rows[7]);
    return sums;
}

// Adds the rows, each times its weight.
fn add_rows(sums: Head, weights: Eight, rows: HeadRows) -> Head {
    return Head(
        add_weighted(sums[0], weights, rows[0]),
        add_weighted(sums[1], weights, rows[1]),
        add_weighted(sums[2], weights, rows[2]),
        add_weighted(sums[3], weights, rows[3]),
        add_weighted(sums[4], weights, rows[4]),
        add_weighted(sums[5], weights, rows[5]),
        add_weighted(sums[6], weights, rows[6]),
        add_weighted(sums[7], weights, rows[7]),
    );
}
