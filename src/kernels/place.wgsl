// A matrix or a vector in an array of parameters; twin of `optimizer::Place`.
struct Place {
    offset: u32,
    rows: u32,
    cols: u32,
    stride: u32,
    is_vector: u32,
    at: u32,
    scratch: u32,
    pad: u32,
}

// Where element `i` of it is, row by row.
fn element(place: Place, i: u32) -> u32 {
    return place.offset + i / place.cols * place.stride + i % place.cols;
}
