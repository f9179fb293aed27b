// The sum over a workgroup that is one subgroup, for software adapters: their barriers cost far more than what
// is added.
override THREADS: u32;

fn summed(own: vec2<f32>, thread: u32) -> vec2<f32> {
    return subgroupAdd(own);
}
