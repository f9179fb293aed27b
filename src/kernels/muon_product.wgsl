// One product of a Newton–Schulz iteration over every matrix X (short side s first, by its strides):
//   PRODUCT 0: A = X Xᵀ, (s, s)
//   PRODUCT 1: B = bA + cA A, (s, s); A is symmetric
//   PRODUCT 2: Y = aX + B X, laid out as X is
// 16 × 16 outputs a workgroup, 16 of the inner side at a time in workgroup memory.
override PRODUCT: u32 = 0u;

struct Params {
    a: f32,
    b: f32,
    c: f32,
}

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> places: array<Place>;
@group(0) @binding(3) var<storage, read> left: array<f32>; // X, A or B
@group(0) @binding(4) var<storage, read> right: array<f32>; // X, A or X
@group(0) @binding(5) var<storage, read_write> product: array<f32>; // A, B or Y

const TILE = 16u;
var<workgroup> left_tile: array<f32, TILE * TILE>;
var<workgroup> right_tile: array<f32, TILE * TILE>;

// Where element (i, j) of X is, i along the short side.
fn of_x(place: Place, i: u32, j: u32) -> u32 {
    let is_wide = place.rows <= place.cols;
    return place.offset + select(j, i, is_wide) * place.stride + select(i, j, is_wide);
}

@compute @workgroup_size(TILE, TILE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let place = places[group.z];
    let short = min(place.rows, place.cols);
    let long = max(place.rows, place.cols);
    let columns = select(short, long, PRODUCT == 2u);
    let inner = select(short, long, PRODUCT == 0u);
    let i = group.y * TILE + local.y;
    let j = group.x * TILE + local.x;
    // The column whose part of `right` this thread loads.
    let own = group.x * TILE + local.y;
    var sum = 0.0;
    if place.is_vector != 0u || group.y * TILE >= short || group.x * TILE >= columns {
        return;
    }
    for (var first = 0u; first < inner; first += TILE) {
        let k = first + local.x;
        var l = 0.0;
        var r = 0.0;
        if k < inner && i < short {
            if PRODUCT == 0u {
                l = left[of_x(place, i, k)];
            } else {
                l = left[place.scratch + i * short + k];
            }
        }
        if k < inner && own < columns {
            switch PRODUCT {
                case 0u: {
                    r = right[of_x(place, own, k)];
                }
                case 1u: {
                    r = right[place.scratch + own * short + k];
                }
                default: {
                    r = right[of_x(place, k, own)];
                }
            }
        }
        left_tile[local.y * TILE + local.x] = l;
        right_tile[local.y * TILE + local.x] = r;
        workgroupBarrier();
        for (var m = 0u; m < TILE; m += 1u) {
            sum += left_tile[local.y * TILE + m] * right_tile[local.x * TILE + m];
        }
        workgroupBarrier();
    }
    if i < short && j < columns {
        let at = place.scratch + i * short + j;
        switch PRODUCT {
            case 0u: {
                product[at] = sum;
            }
            case 1u: {
                product[at] = params.b * left[at] + params.c * sum;
            }
            default: {
                let x = of_x(place, i, j);
                product[x] = params.a * right[x] + sum;
            }
        }
    }
}
