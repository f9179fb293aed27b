// Keys and values as they are; the twin is `kv_f16.wgsl`.
alias Four = vec4<f32>; // four features
const PER_WORD = 1u; // features of a component of `Four`

fn unpacked(four: Four) -> vec4<f32> {
    return four;
}

fn packed(four: vec4<f32>) -> Four {
    return four;
}

fn of_word(word: f32, i: u32) -> f32 {
    return word;
}

struct StoredEight {
    a: Four,
    b: Four,
}

fn eight_unpacked(eight: StoredEight) -> Eight {
    return Eight(eight.a, eight.b);
}

fn eight_packed(eight: Eight) -> StoredEight {
    return StoredEight(eight.a, eight.b);
}
