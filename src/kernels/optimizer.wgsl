// Shared by the update rules. A norm that is not finite: one such gradient would spoil every parameter
// for good. Its bits say so; a comparison may be compiled as if there were no NaN.
fn is_sound() -> bool {
    return (bitcast<u32>(clip[1]) & 0x7f800000u) != 0x7f800000u;
}

// What a gradient is multiplied by.
fn gradient_factor() -> f32 {
    return clip[0] * step.gradient_scale;
}
