// Shared by the kernels that read a weight matrix: 32 columns of a row are a block, and blocks
// stand row by row. The layouts are described in `weight.rs`.
override FORMAT: u32 = 0u; // 0 f32, 1 f16, 2 q8, 3 q4

@group(0) @binding(2) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

const BLOCK = 32u;

fn signed_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(vec4<i32>(vec4<u32>(word << 24u, word << 16u, word << 8u, word)) >> vec4<u32>(24u));
}

// The scale of a block and what is added; 1 and 0 for the formats that have none.
fn block_scale(block: u32) -> vec2<f32> {
    switch FORMAT {
        case 2u: {
            return vec2<f32>(unpack2x16float(scales[block / 2u])[block & 1u], 0.0);
        }
        case 3u: {
            return unpack2x16float(scales[block]); // (d, m)
        }
        default: {
            return vec2<f32>(1.0, 0.0);
        }
    }
}

fn eight_nibbles(word: u32) -> Eight {
    // CPUs turn signed numbers into floats far faster than unsigned ones.
    let low = vec4<i32>(vec4<u32>(word) & vec4<u32>(0xfu, 0xf0u, 0xf00u, 0xf000u));
    let high = vec4<i32>(vec4<u32>(word >> 16u) & vec4<u32>(0xfu, 0xf0u, 0xf00u, 0xf000u));
    let places = vec4<f32>(1.0, 0.0625, 0.00390625, 0.000244140625);
    return Eight(vec4<f32>(low) * places, vec4<f32>(high) * places);
}

// Weights 8·quarter … 8·quarter + 7 of a block, before its `block_scale`, by the loads of just those.
fn eight_raw(block: u32, quarter: u32) -> Eight {
    switch FORMAT {
        case 2u: {
            let at = block * 2u + quarter / 2u;
            let half = (quarter & 1u) * 2u;
            return Eight(signed_bytes(values[at][half]), signed_bytes(values[at][half + 1u]));
        }
        case 3u: {
            return eight_nibbles(values[block][quarter]);
        }
        default: {
            return eight_of(sixteen_bytes(block, quarter), block, quarter);
        }
    }
}

// How many quarters of a block are in the 16 bytes of one.
fn quarters_together() -> u32 {
    switch FORMAT {
        case 2u: {
            return 2u;
        }
        case 3u: {
            return 4u;
        }
        default: {
            return 1u;
        }
    }
}

// Where a quarter is, or begins.
fn sixteen_bytes(block: u32, quarter: u32) -> vec4<u32> {
    if FORMAT == 0u {
        return values[block * 8u + quarter * 2u];
    }
    return values[(block * 4u + quarter) / quarters_together()];
}

// `eight_raw`, given its `sixteen_bytes`.
fn eight_of(words: vec4<u32>, block: u32, quarter: u32) -> Eight {
    switch FORMAT {
        case 1u: {
            return Eight(
                vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
                vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)),
            );
        }
        case 2u: {
            let half = (quarter & 1u) * 2u;
            return Eight(signed_bytes(words[half]), signed_bytes(words[half + 1u]));
        }
        case 3u: {
            return eight_nibbles(words[quarter]);
        }
        default: {
            let rest = values[block * 8u + quarter * 2u + 1u];
            return Eight(bitcast<vec4<f32>>(words), bitcast<vec4<f32>>(rest));
        }
    }
}

// The same, given its `block_scale`.
fn eight_scaled(block: u32, quarter: u32, scale: vec2<f32>) -> Eight {
    let raw = eight_raw(block, quarter);
    if FORMAT == 2u {
        return Eight(raw.a * scale.x, raw.b * scale.x);
    }
    if FORMAT == 3u {
        return Eight(raw.a * scale.x + scale.y, raw.b * scale.x + scale.y);
    }
    return raw;
}

fn eight_weights(block: u32, quarter: u32) -> Eight {
    return eight_scaled(block, quarter, block_scale(block));
}
