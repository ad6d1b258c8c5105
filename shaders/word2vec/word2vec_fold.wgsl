// word2vec_fold: gradients of rows that are many times in a batch, added up in stretches, so that
// no invocation has a long sum to do alone.
//
//   g_begin ← Σ g over the stretch
//
// Shapes      stretches: of each where it begins in the list of gradients, and how many it has
// Workgroups  one per (stretch, SLICES), an invocation for a quad
// Barriers    none

#import shared/line

struct FoldParams {
    stretches: u32,
    first: u32,      // where the stretches begin in the batch
    gradients: u32,  // where the list of gradients begins in the batch
}

@group(0) @binding(0) var<uniform> params: FoldParams;
@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read_write> gradients: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn word2vec_fold(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = place_in_line(workgroup, workgroups);
    let quad = number % SLICES * LANES + lane;
    let stretch = number / SLICES;
    if quad >= QUADS || stretch >= params.stretches {
        return;
    }
    let head = params.first + STRETCH_NUMBERS * stretch;
    let begin = params.gradients + batch[head];
    let end = begin + batch[head + 1u];
    let to = batch[begin] * QUADS + quad;
    var sum = gradients[to];
    for (var at = begin + 1u; at < end; at++) {
        sum += gradients[batch[at] * QUADS + quad];
    }
    gradients[to] = sum;
}
