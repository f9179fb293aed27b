// What Adafactor multiplies the gradient of element `i` by: 1/√(row's mean · column's mean / mean of the
// rows' means), of a vector 1/√(its own mean).
fn update_scale(place: Place, i: u32, mean: f32) -> f32 {
    let of_row = means[place.at + i / place.cols];
    if place.is_vector != 0u {
        return inverseSqrt(of_row);
    }
    return inverseSqrt(of_row / mean) * inverseSqrt(means[place.at + place.rows + i % place.cols]);
}
