// Eight neighbours: of a row of weights, of activations, of outputs.
struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}
