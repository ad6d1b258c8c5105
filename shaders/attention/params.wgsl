// What every attention kernel is bound to. Group 0 changes with each call, group 1 with the
// schedule, group 2 with the tensors.
//
// All strides and bases are in quads (four channels), the unit of every load; the log-sum-exp's are
// in elements. Rust fills these structs (src/attention/kernels/params.rs); a test compares the two
// layouts field by field.

struct Params {
    q_head_stride: u32,
    q_row_stride: u32,
    k_head_stride: u32,
    k_row_stride: u32,
    v_head_stride: u32,
    v_row_stride: u32,
    o_head_stride: u32,
    o_row_stride: u32,
    lse_head_stride: u32,
    heads: u32,           // query heads of this dispatch
    first_head: u32,      // … of which this is the first, among all of the call
    heads_per_kv: u32,    // query heads that read one key/value head
    heads_per_list: u32,  // query heads that share one block list
    list_groups: u32,     // block lists of a query block
    first_item: u32,      // where in the line of work this dispatch begins
    work_items: u32,      // … and where it ends; the whole line is sequences × heads × tiles
    tiles: u32,           // row tiles of the longest sequence
    tiles_per_block: u32, // row tiles of one query block
    block_size: u32,      // tokens of a schedule block
    flags: u32,           // FLAG_*
    window: u32,          // tokens; read only with FLAG_WINDOW
    scale: f32,
    soft_cap: f32,        // read only with FLAG_SOFT_CAP, as its reciprocal
    soft_cap_inverse: f32,
    beta: f32,            // importance correction
    score_unit: f32,      // what a natural logarithm is in the kernel's scores
    rope_low: u32,        // quads of the position table, as all that follow
    rope_high: u32,
    rope_steps: u32,
    phi_base: u32,
    slope_base: u32,
    phi_cap: u32,         // lag from which on φ is phi_flat
    phi_flat: f32,
    phi_rate: f32,        // per token
    factor_length: f32,   // tokens
    sink_base: u32,       // read only with FLAG_SINKS
    page_size: u32,       // tokens; this and the strides only where keys lie in pages
    k_page_stride: u32,
    v_page_stride: u32,
    // These and what follows only where keys are split.
    splits: u32,          // of a row's keys
    row_chunks: u32,      // workgroups that share the rows of a tile
    heads_each: u32,      // heads that share keys and a block list
    heads_here: u32,      // heads of this dispatch
    all_heads: u32,       // of the call
    max_rows: u32,        // queries of a sequence for which there are states
    merge_items: u32,     // sequences × rows × heads × quads
}

struct Sequence {
    q_base: u32,
    k_base: u32,
    v_base: u32,
    o_base: u32,
    lse_base: u32,
    q_len: u32,
    kv_len: u32,
    first_block: i32,  // absolute index of the first query block
    query_blocks: u32,
    list_base: u32,    // where this sequence's schedule begins in `tables`, or NO_TABLE
    order_base: u32,    // where the order of its query blocks begins, or NO_TABLE: late ones first
    document_base: u32, // where its document mask begins, or NO_TABLE
    // Where the position ids of its queries and then its keys begin, or NO_TABLE: they count up
    // from the positions below.
    id_base: u32,
    // Where its mask tensor begins, or NO_TABLE; words from one head, and from one query, to the
    // next; and bits of a number.
    mask_base: u32,
    mask_head_stride: u32,
    mask_row_stride: u32,
    mask_bits: u32,
    q_position: i32,
    k_position: i32,
    slope_head: u32,    // head 0's place among the slopes
    segments: u32,      // of a cache: how many have left the residual
    page_base: u32,     // where its table of pages begins, if keys lie in pages
    // Its batch entry, and its first rows there: read only in the backward pass, which has more
    // tensors than there are bases above, and the last where keys lie in pages.
    entry: u32,
    q_start: u32,
    kv_start: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sequences: array<Sequence>;
