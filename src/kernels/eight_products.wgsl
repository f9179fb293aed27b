// Eight values of eight rows at a time, from `exchange_broadcast.wgsl` or `exchange_quads.wgsl`.

fn product(v: Eight, w: Eight) -> f32 {
    return dot(v.a, w.a) + dot(v.b, w.b);
}

// Adds the products of `v` with each row.
fn add_products(sums: Eight, v: Eight, rows: array<Eight, 8>) -> Eight {
    return Eight(
        sums.a + vec4<f32>(
            product(v, rows[0]),
            product(v, rows[1]),
            product(v, rows[2]),
            product(v, rows[3]),
        ),
        sums.b + vec4<f32>(
            product(v, rows[4]),
            product(v, rows[5]),
            product(v, rows[6]),
            product(v, rows[7]),
        ),
    );
}

// Adds the rows, each times its weight.
fn add_weighted(sum: Eight, w: Eight, rows: array<Eight, 8>) -> Eight {
    return Eight(
        sum.a
            + ((w.a.x * rows[0].a + w.a.y * rows[1].a) + (w.a.z * rows[2].a + w.a.w * rows[3].a))
            + ((w.b.x * rows[4].a + w.b.y * rows[5].a) + (w.b.z * rows[6].a + w.b.w * rows[7].a)),
        sum.b
            + ((w.a.x * rows[0].b + w.a.y * rows[1].b) + (w.a.z * rows[2].b + w.a.w * rows[3].b))
            + ((w.b.x * rows[4].b + w.b.y * rows[5].b) + (w.b.z * rows[6].b + w.b.w * rows[7].b)),
    );
}
