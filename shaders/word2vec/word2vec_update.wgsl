// word2vec_update: the weights after a batch.
//
//   w ← w + rate · min(1, cap/hits) · Σ g
//
// Shapes      rows: of each the word, where its gradients begin in their list, how many there are,
//             and min(1, cap/hits) as f32 · weights: a row a word · diverged: a number
// Workgroups  an invocation takes a row. Rows are in the order of how many gradients they have, so
//             that neighbours have about as much to do
// Barriers    none

#import shared/line

struct UpdateParams {
    rows: u32,
    first: u32,      // where the rows begin in the batch
    gradients: u32,  // where the list of gradients begins in the batch
    rate: f32,
    number: u32,     // of the batch
}

@group(0) @binding(0) var<uniform> params: UpdateParams;
@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read> gradients: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> weights: array<vec4<f32>>;
// ~ the number of the first batch that made a weight too large; 0 as long as there is none.
@group(0) @binding(4) var<storage, read_write> diverged: atomic<u32>;

@compute @workgroup_size(LANES)
fn word2vec_update(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = place_in_line(workgroup, workgroups) * LANES + lane;
    if row >= params.rows {
        return;
    }
    let head = params.first + ROW_NUMBERS * row;
    let to = batch[head] * QUADS;
    let begin = params.gradients + batch[head + 1u];
    let end = begin + batch[head + 2u];
    let factor = params.rate * bitcast<f32>(batch[head + 3u]);
    let step = select(1u, STRETCH, end - begin > STRETCH);
    let first = batch[begin] * QUADS;
    for (var quad = 0u; quad < QUADS; quad++) {
        var sum = gradients[first + quad];
        for (var at = begin + step; at < end; at += step) {
            sum += gradients[batch[at] * QUADS + quad];
        }
        let next = weights[to + quad] + factor * sum;
        weights[to + quad] = next;
        // By bits, since compilers may leave out comparisons that only a NaN fails.
        let magnitudes = bitcast<vec4<u32>>(next) & vec4<u32>(0x7fffffffu);
        if any(magnitudes >= vec4<u32>(DIVERGED_BITS)) {
            atomicMax(&diverged, ~params.number);
        }
    }
}
