// What the kernels that choose blocks by content are bound to, and which rows and blocks they look
// at: `sampling::content` in Rust.
//
// Rust fills these structs (src/sampling/gpu/params.rs); a test compares the two layouts field by
// field.

#import shared/line
#import shared/visible

struct ContentParams {
    sequences: u32,
    heads: u32,             // query heads of the call
    heads_per_kv: u32,      // query heads that read one key/value head
    heads_per_list: u32,    // query heads that share one block list
    list_groups: u32,       // block lists of a query block
    first_head: u32,        // of the queries that are bound here, among all of the call
    heads_here: u32,        // … and how many there are
    query_blocks: u32,      // of the sequence that has most
    probes: u32,            // rows that speak for a query block, at most
    probe_rows: u32,        // … as many as were asked for
    row_chunks: u32,        // workgroups that share the rows of a query block and key/value head
    tiles: u32,             // of groups, of the longest sequence
    tile_groups: u32,       // groups of a tile
    tile_blocks: u32,       // key blocks of a tile
    groups_per_block: u32,  // 1 where a group has several blocks
    blocks_per_group: u32,  // 1 where a block has several groups
    block_size: u32,        // tokens, as the next one
    group: u32,
    flags: u32,             // FLAG_*
    window: u32,            // tokens; read only with FLAG_WINDOW
    q_head_stride: u32,     // quads
    q_row_stride: u32,
    scale: f32,
    soft_cap: f32,          // read only with FLAG_SOFT_CAP, as its reciprocal
    soft_cap_inverse: f32,
    rope_low: u32,          // quads of the position table
    rope_high: u32,
    summary_stride: u32,    // words from one head's summaries to the next
    spread: f32,            // z of a whole group
    budget: u32,            // blocks of a row
    sink_blocks: u32,
    window_blocks: u32,
    tau: u32,               // exponents in 16.16 fixed point
    alpha: u32,
    tie_digits: u32,        // digits that tell any two distances apart
}

struct ContentSequence {
    here: u32,            // whether its queries are bound here
    q_base: u32,          // quads
    summary_base: u32,    // words
    q_len: u32,
    kv_len: u32,
    known: u32,           // keys of which there are summaries: the first ones
    segments: u32,        // of a cache: how many have left the residual
    q_position: i32,      // of the first query
    first_block: i32,     // absolute index of the first query block
    query_blocks: u32,
    key_blocks: u32,
    mass_base: u32,       // where its masses, shares and pooled scores begin in `scores`
    share_base: u32,
    pool_base: u32,
    plane_base: u32,      // … and its bounds and least masses
    report_base: u32,     // … and what is said of its lists
    list_base: u32,       // where its lists begin in `tables`
    last_spread: f32,     // z of the last group that there is a summary of
    seed: u32,            // hash of what all of its rows share
    round: u32,
}

@group(0) @binding(0) var<uniform> params: ContentParams;
@group(0) @binding(1) var<storage, read> sequences: array<ContentSequence>;

// For each sequence [head, query block, probe, key block] logarithms of masses, then [head, query
// block, key block] those of shares, then [list group, query block, key block] scores of lists: to
// base 2, in units of 1/1024. MASKED where there is nothing, CERTAIN for blocks with keys of which
// there is no summary.
@group(1) @binding(1) var<storage, read_write> scores: array<i32>;

// Which keys the query of a row sees.
fn visible_keys(sequence: ContentSequence, row: i32) -> Visible {
    let kv_len = i32(sequence.kv_len);
    return visible_at(row + kv_len - i32(sequence.q_len), kv_len);
}

// The rows of a query block: the first one, and one past the last.
fn rows_of(sequence: ContentSequence, query_block: u32) -> vec2<i32> {
    let offset = i32(sequence.kv_len) - i32(sequence.q_len);
    let begin = (sequence.first_block + i32(query_block)) * i32(params.block_size) - offset;
    return vec2<i32>(max(begin, 0), min(begin + i32(params.block_size), i32(sequence.q_len)));
}

// The row that speaks for a query block as number `at`; −1 where there is none.
fn probe_row(sequence: ContentSequence, query_block: u32, at: u32) -> i32 {
    let rows = rows_of(sequence, query_block);
    let count = params.probe_rows;
    if (params.flags & FLAG_AHEAD) != 0u {
        let len = u32(max(rows.y - rows.x, 0));
        // As many rows as are asked for, or all.
        let place = select((2u * at + 1u) * len / (2u * count), at, len <= count);
        return select(-1, rows.x + i32(place), at < min(len, count));
    }
    let row = rows.x - i32(at * params.block_size / count);
    return select(-1, row, row >= 0 && at < count);
}

// The key blocks that any row of a query block sees: the first one, and one past the last.
fn seen_blocks(sequence: ContentSequence, query_block: u32) -> vec2<u32> {
    let rows = rows_of(sequence, query_block);
    let early = visible_keys(sequence, rows.x);
    let late = visible_keys(sequence, rows.y - 1);
    if rows.x >= rows.y || late.hi <= late.lo {
        return vec2<u32>(0u);
    }
    return vec2<u32>(u32(early.lo) / params.block_size, (u32(late.hi) + params.block_size - 1u) / params.block_size);
}

// The first block that has keys of which there is no summary: it and those after it always take
// part.
fn first_unknown(sequence: ContentSequence) -> u32 {
    return select(sequence.key_blocks, sequence.known / params.block_size, sequence.known < sequence.kv_len);
}

// Of a kernel with a workgroup for each query block of each head: which ones it has.
struct HeadRow {
    exists: bool,      // false past the end of the line, and of a sequence that isn't the longest
    head: u32,
    query_block: u32,
    sequence: u32,
    row: u32,          // among those of the sequence
}

fn head_row(item: u32) -> HeadRow {
    let query_block = item % params.query_blocks;
    let head = item / params.query_blocks % params.heads;
    let index = item / (params.query_blocks * params.heads);
    if index >= params.sequences {
        return HeadRow(false, 0u, 0u, 0u, 0u);
    }
    let query_blocks = sequences[index].query_blocks;
    return HeadRow(query_block < query_blocks, head, query_block, index, head * query_blocks + query_block);
}
