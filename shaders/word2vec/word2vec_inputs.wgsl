// word2vec_inputs: how far the items of a batch are from what they should be, and what that changes
// of them.
//
//   e(t, i) = 1 − σ(⟨x_t, y_i⟩)                    for the centres i of item t
//   e(t, n) = −σ(⟨x_t, y_n⟩)·pairs(t)·K/SHARED     for the negatives n of the run of t
//   change of t     Σ_i e(t, i)·y_i + Σ_n e(t, n)·y_n
//
// The centres of a token (PAIRS) are those that have it in their windows. A mean has its own, whose
// word changes by e(t, t)·x_t, which is written here too.
//
// Shapes      batch.wgsl
// Workgroups  one per run, an item an invocation, with its row and its change in registers. Rows of
//             outputs pass through workgroup memory, TILE at a time
// Barriers    two per tile: how many there are depends on the workgroup alone

#import word2vec/batch

// Word vectors, or means.
@group(0) @binding(2) var<storage, read> inputs: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> outputs: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> errors: array<f32>;
@group(0) @binding(5) var<storage, read_write> gradients: array<vec4<f32>>;

var<workgroup> tile: array<vec4<f32>, TILE * QUADS>;

@compute @workgroup_size(RUN)
fn word2vec_inputs(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let run = place_in_line(workgroup, workgroups);
    let first = run * RUN;
    if first >= items() {
        return;
    }
    let exists = first + lane < items();
    let item = min(first + lane, items() - 1u);
#if PAIRS
    let input = batch[item] * QUADS;
#else
    let input = item * QUADS;
    let own = batch[item + WINDOW] * QUADS;
    var products = vec4<f32>();
#end
#for q in QUADS
    let x$q = inputs[input + $qu];
    var change$q = vec4<f32>();
#end
#if PAIRS
    // Centres whose windows may reach these tokens: centre i is token i + WINDOW.
    let begin = max(first, 2u * WINDOW) - 2u * WINDOW;
    let end = max(min(first + RUN, params.centres), begin);
    for (var at = begin; at < end; at += TILE) {
        for (var quad = lane; quad < TILE * QUADS; quad += RUN) {
            let centre = min(at + quad / QUADS, end - 1u);
            tile[quad] = outputs[batch[centre + WINDOW] * QUADS + quad % QUADS];
        }
        workgroupBarrier();
        for (var row = 0u; row < TILE; row++) {
            let y = row * QUADS;
            let centre = at + row;
            // Where no token of a subgroup has this centre, devices skip what follows.
            if exists && centre < end && in_window(item, min(centre, end - 1u)) {
                var products = vec4<f32>();
                #for q in QUADS: products += x$q * tile[y + $qu];
                let error = 1.0 - logistic(products.x + products.y + products.z + products.w);
                errors[centre * RING + item - centre] = error;
                #for q in QUADS: change$q += error * tile[y + $qu];
            }
        }
        workgroupBarrier();
    }
#else
    #for q in QUADS: products += x$q * outputs[own + $qu];
    let error = 1.0 - logistic(products.x + products.y + products.z + products.w);
    #for q in QUADS: change$q = error * outputs[own + $qu];
    if exists {
        #for q in QUADS: gradients[input + $qu] = error * x$q;
    }
#end
    let weight = f32(batch[params.pairs + item]) * NEGATIVES_EACH;
    let negatives = params.negatives + run * SHARED;
    let errors_at = negative_errors(item);
    for (var at = 0u; at < SHARED; at += TILE) {
        for (var quad = lane; quad < TILE * QUADS; quad += RUN) {
            tile[quad] = outputs[batch[negatives + at + quad / QUADS] * QUADS + quad % QUADS];
        }
        workgroupBarrier();
        for (var row = 0u; row < TILE; row++) {
            let y = row * QUADS;
            var products = vec4<f32>();
            #for q in QUADS: products += x$q * tile[y + $qu];
            let error = -weight * logistic(products.x + products.y + products.z + products.w);
            if exists {
                errors[errors_at + at + row] = error;
            }
            #for q in QUADS: change$q += error * tile[y + $qu];
        }
        workgroupBarrier();
    }
    if exists {
        // Of means behind the gradients of tokens, into which word2vec_windows spreads them.
        let to = (params.centres + runs() * SHARED + select(tokens(), 0u, PAIRS == 1u) + item) * QUADS;
        #for q in QUADS: gradients[to + $qu] = change$q;
    }
}
