// word2vec_negatives: what a batch changes of the output weights of its negatives.
//
//   gradient of negative n of a run     Σ e(t, n)·x_t over the items t of the run
//
// Shapes      batch.wgsl
// Workgroups  one per LANES negatives of a run, a negative an invocation; rows of items pass
//             through workgroup memory, TILE at a time
// Barriers    two per tile: how many there are depends on the workgroup alone

#import word2vec/batch

// Word vectors, or means.
@group(0) @binding(2) var<storage, read> inputs: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> errors: array<f32>;
@group(0) @binding(4) var<storage, read_write> gradients: array<vec4<f32>>;

var<workgroup> tile: array<vec4<f32>, TILE * QUADS>;

@compute @workgroup_size(LANES)
fn word2vec_negatives(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = place_in_line(workgroup, workgroups);
    let run = block / (SHARED / LANES);
    let number = block % (SHARED / LANES) * LANES + lane;
    if run >= runs() {
        return;
    }
    #for q in QUADS: var change$q = vec4<f32>();
    let end = min((run + 1u) * RUN, items());
    for (var at = run * RUN; at < end; at += TILE) {
        for (var quad = lane; quad < TILE * QUADS; quad += LANES) {
            let item = min(at + quad / QUADS, end - 1u);
#if PAIRS
            tile[quad] = inputs[batch[item] * QUADS + quad % QUADS];
#else
            tile[quad] = inputs[item * QUADS + quad % QUADS];
#end
        }
        workgroupBarrier();
        for (var row = 0u; row < TILE; row++) {
            let item = min(at + row, end - 1u);
            let error = select(0.0, errors[negative_errors(item) + number], at + row < end);
            let x = row * QUADS;
            #for q in QUADS: change$q += error * tile[x + $qu];
        }
        workgroupBarrier();
    }
    let to = (params.centres + run * SHARED + number) * QUADS;
    #for q in QUADS: gradients[to + $qu] = change$q;
}
