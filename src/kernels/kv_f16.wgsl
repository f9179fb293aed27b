// Keys and values in half the memory, which needs no `shader-f16`.
alias Four = vec2<u32>;
const PER_WORD = 2u;

fn unpacked(four: Four) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(four.x), unpack2x16float(four.y));
}

fn packed(four: vec4<f32>) -> Four {
    let most = vec4<f32>(65504.0);
    let inside = clamp(four, -most, most);
    return vec2<u32>(pack2x16float(inside.xy), pack2x16float(inside.zw));
}

fn of_word(word: u32, i: u32) -> f32 {
    return unpack2x16float(word)[i];
}

// In one vector, which llvmpipe loads faster than two.
alias StoredEight = vec4<u32>;

fn eight_unpacked(eight: StoredEight) -> Eight {
    return Eight(unpacked(eight.xy), unpacked(eight.zw));
}

fn eight_packed(eight: Eight) -> StoredEight {
    return vec4<u32>(packed(eight.a), packed(eight.b));
}
