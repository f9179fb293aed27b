// The sum over a workgroup, in its memory. The twin is `sum_subgroup.wgsl`.
const THREADS = 64u;
var<workgroup> sums: array<vec2<f32>, THREADS>;

fn summed(own: vec2<f32>, thread: u32) -> vec2<f32> {
    sums[thread] = own;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    workgroupBarrier();
    return sums[0];
}
