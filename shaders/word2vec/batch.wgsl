// What the kernels of word2vec share: where the numbers of a batch lie (src/word2vec/batch.rs).
//
// An item is what is compared with outputs: of skip-grams (PAIRS) each token, of bags of words the
// mean of each centre's window. RUN items after each other are a run, and share their negatives.
//
// Shapes      batch: tokens (CENTRES + 2·WINDOW; centre i is token i + WINDOW) · windows (CENTRES)
//             · pairs (ITEMS) · negatives (SHARED for each run) · what is added up; each begins
//             where the parameters say errors: of skip-grams centres × RING, a token of the ring
//             each; then items × SHARED gradients: rows of each centre's word, of each run's
//             negatives, of each token; then of bags of words what changes of each mean rows of
//             weights, means and gradients have QUADS quads

#import shared/line

struct BatchParams {
    centres: u32,
    windows: u32,    // where the windows begin
    pairs: u32,      // where the numbers of pairs begin
    negatives: u32,  // where the negatives begin
}

@group(0) @binding(0) var<uniform> params: BatchParams;
@group(0) @binding(1) var<storage, read> batch: array<u32>;

fn tokens() -> u32 {
    return params.centres + 2u * WINDOW;
}

fn items() -> u32 {
    return select(params.centres, tokens(), PAIRS == 1u);
}

fn runs() -> u32 {
    return (items() + RUN - 1u) / RUN;
}

fn window_of(centre: u32) -> vec2<u32> {
    let window = batch[params.windows + centre];
    return vec2<u32>(window & 0xffffu, window >> 16u);
}

// Whether a token is in the window of a centre.
fn in_window(token: u32, centre: u32) -> bool {
    let window = window_of(centre);
    let own = centre + WINDOW;
    return (token < own && own - token <= window.x) || (token > own && token - own <= window.y);
}

// Where the errors of an item with its negatives begin.
fn negative_errors(item: u32) -> u32 {
    return select(0u, params.centres * RING, PAIRS == 1u) + item * SHARED;
}

// 1/(1 + e^(−s))
fn logistic(score: f32) -> f32 {
    return 1.0 / (1.0 + exp(-score));
}
