// word2vec_windows: sums over windows, of centres or of tokens.
//
//   TARGETS   of centre i     Σ e(t, i)·x_t     over the tokens t of its window: what a batch of
//                                               skip-grams changes of the output weights of its
//                                               word
//   MEANS     of centre i     Σ x_t / n         over the n tokens t of its window
//   SPREAD    of token t      Σ change_i        over the centres i that have it in their window:
//                                               what a batch of bags of words changes of its vector
//
// Shapes      batch.wgsl
// Workgroups  one per RUN centres or tokens after each other, one an invocation; rows pass through
//             workgroup memory, TILE at a time
// Barriers    two per tile: how many there are depends on the workgroup alone

#import word2vec/batch

#if SPREAD
@group(0) @binding(2) var<storage, read_write> gradients: array<vec4<f32>>;
#else
@group(0) @binding(2) var<storage, read> inputs: array<vec4<f32>>;
// Gradients, or means.
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<f32>>;
#end
#if TARGETS: @group(0) @binding(4) var<storage, read> errors: array<f32>;

var<workgroup> tile: array<vec4<f32>, TILE * QUADS>;

@compute @workgroup_size(RUN)
fn word2vec_windows(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = place_in_line(workgroup, workgroups) * RUN;
#if SPREAD
    let count = tokens();
#else
    let count = params.centres;
#end
    if first >= count {
        return;
    }
    let exists = first + lane < count;
    let own = min(first + lane, count - 1u);
#if SPREAD
    // Centres whose windows may reach these tokens.
    let begin = max(first, 2u * WINDOW) - 2u * WINDOW;
    let end = max(min(first + RUN, params.centres), begin);
    let gradients_at = params.centres + runs() * SHARED;
    let changes_at = gradients_at + tokens();
#else
    // Tokens that the windows of these centres may reach.
    let begin = first;
    let end = min(first + RUN + 2u * WINDOW, tokens());
#end
    #for q in QUADS: var sum$q = vec4<f32>();
    for (var at = begin; at < end; at += TILE) {
        for (var quad = lane; quad < TILE * QUADS; quad += RUN) {
            let row = min(at + quad / QUADS, end - 1u);
#if SPREAD
            tile[quad] = gradients[(changes_at + row) * QUADS + quad % QUADS];
#else
            tile[quad] = inputs[batch[row] * QUADS + quad % QUADS];
#end
        }
        workgroupBarrier();
        for (var row = 0u; row < TILE; row++) {
            let x = row * QUADS;
            let other = min(at + row, end - 1u);
#if SPREAD
            let token = own;
            let centre = other;
#else
            let token = other;
            let centre = own;
#end
            if at + row < end && in_window(token, centre) {
#if TARGETS
                let error = errors[centre * RING + token - centre];
                #for q in QUADS: sum$q += error * tile[x + $qu];
#else
                #for q in QUADS: sum$q += tile[x + $qu];
#end
            }
        }
        workgroupBarrier();
    }
    if exists {
#if SPREAD
        let to = (gradients_at + own) * QUADS;
        #for q in QUADS: gradients[to + $qu] = sum$q;
#else
#if MEANS
        // A window without words has no mean, and nothing is made of what stands here.
        let window = window_of(own);
        let part = 1.0 / f32(max(window.x + window.y, 1u));
#else
        let part = 1.0;
#end
        #for q in QUADS: sums[own * QUADS + $qu] = part * sum$q;
#end
    }
}
