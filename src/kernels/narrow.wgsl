// A workgroup's share of `h = features · A`, for the kernels that make the features. Those bind
// `parameters` and an `out` with room behind the features for the shares, each of a whole h.

const NARROW_THREADS = 64u;
const NARROW_COLUMNS = 8u; // at a time
const NARROW_FEATURES = 256u;
var<workgroup> features: array<f32, NARROW_FEATURES>;
var<workgroup> slices: array<f32, NARROW_THREADS>;

struct Narrow {
    place: u32, // A's, in `parameters`
    rank: u32,
    at: u32, // where the first share begins in `out`
    pad: u32,
}

// `features` holds `count` of them, the first of which is the layer's number `first`. All threads of
// the workgroup come here.
fn narrow(a: Narrow, share: u32, first: u32, count: u32, thread: u32) {
    for (var c = 0u; c < a.rank; c += NARROW_COLUMNS) {
        workgroupBarrier();
        let column = c + thread % NARROW_COLUMNS;
        let slice = thread / NARROW_COLUMNS;
        var sum = 0.0;
        if column < a.rank {
            for (var i = slice; i < count; i += NARROW_THREADS / NARROW_COLUMNS) {
                sum += features[i] * parameters[a.place + (first + i) * a.rank + column];
            }
        }
        slices[thread] = sum;
        workgroupBarrier();
        if slice == 0u && column < a.rank {
            for (var i = NARROW_COLUMNS; i < NARROW_THREADS; i += NARROW_COLUMNS) {
                sum += slices[i + thread];
            }
            out[a.at + share * a.rank + column] = sum;
        }
    }
}
