// Eight rows that four lanes load for one another, in an order of each lane's own: they swap them, which
// costs SwiftShader a thirtieth of a broadcast.
const LANES = 4u;

// Which of the eight rows a lane has in the first four places; in the others the ones four further.
fn row_order(lane: u32) -> vec4<u32> {
    return vec4<u32>(0u, 1u, 2u, 3u) ^ vec4<u32>(lane);
}

// From what a lane has loaded of the rows `lane` and `lane + 4`.
fn exchanged(low: Eight, high: Eight) -> array<Eight, 8> {
    return array<Eight, 8>(
        low,
        Eight(quadSwapX(low.a), quadSwapX(low.b)),
        Eight(quadSwapY(low.a), quadSwapY(low.b)),
        Eight(quadSwapDiagonal(low.a), quadSwapDiagonal(low.b)),
        high,
        Eight(quadSwapX(high.a), quadSwapX(high.b)),
        Eight(quadSwapY(high.a), quadSwapY(high.b)),
        Eight(quadSwapDiagonal(high.a), quadSwapDiagonal(high.b)),
    );
}
