// What the kernels that write a staircase cache share: the moves of a dispatch, the arena that they
// move tokens in.

#import shared/line
#import shared/search
#import cache/cache

struct MoveParams {
    work_items: u32,     // workgroups with work
    tiles: u32,          // … per key/value head
    units: u32,          // of all moves, per head
    moves: u32,
    arena_head: u32,     // the first head, in the arena as it is bound
    input_head: u32,     // … and in the input as it is bound
    k_head_stride: u32,  // quads of the input
    k_row_stride: u32,
    k_quads: u32,        // channels of a key in quads, without padding
    v_head_stride: u32,
    v_row_stride: u32,
    v_quads: u32,
    number: u32,         // of the change that the dispatch is a part of
}

// A segment of one side that goes from where it lies, or from the input, to another rung; or rows
// that are copied. Words are counted from the start of a head.
struct Move {
    first: u32,        // units of the moves before
    flags: u32,        // FLAG_*; above SKIPPED_AT the rows that are read from copies of sinks
    // The widths that codes pass through, four bits each, the first the lowest; without them, rows
    // are copied.
    widths: u32,
    held: u32,         // rows (or all) that lie in the arena; the later ones in the input
    source: u32,       // words: the pack, or the ring of rows
    source_row: u32,   // the first row in it
    source_ring: u32,  // rows until it comes round
    input: u32,        // quads: where the first row were if it lay in head 0 of the input
    destination: u32,  // words: the pack, or the ring of rows; of a commit, the stamp
    // Of copies, the first row in it, and the rows until it comes round. Of keys that become
    // rotated codes, `source` and `input` of the values of the same tokens.
    row: u32,
    ring: u32,
    stamp: u32,        // words: where the sequence's stamp lies, in keys
    expected: u32,     // what it must be for the move to take place; 0: anything
}

@group(0) @binding(0) var<uniform> params: MoveParams;
@group(0) @binding(1) var<storage, read> moves: array<Move>;
@group(1) @binding(0) var<storage, read_write> keys: array<u32>;
@group(1) @binding(1) var<storage, read_write> values: array<u32>;
@group(1) @binding(2) var<uniform> cache: CacheLayout;
@group(1) @binding(3) var<storage, read_write> unsound: array<atomic<u32>, 2>;

// ⌊n/d⌋ where it is below 2¹⁰. The estimate is off by one at most, however loosely a device
// divides, and integers put it right.
fn quotient(n: vec4<u32>, d: vec4<u32>) -> vec4<u32> {
    let estimate = vec4<u32>(vec4<f32>(n) / vec4<f32>(d));
    let rest = vec4<i32>(n - estimate * d);
    let below = select(vec4<u32>(0u), vec4<u32>(1u), rest < vec4<i32>(0));
    let above = select(vec4<u32>(0u), vec4<u32>(1u), rest >= vec4<i32>(d));
    return estimate - below + above;
}

// Where a move begins, for shared/search.wgsl.
fn begins_at(index: u32) -> u32 {
    return moves[index].first;
}

fn is_values(flags: u32) -> bool {
    return (flags & FLAG_VALUES) != 0u;
}

// Words of a row of f16 numbers.
fn row_words(flags: u32) -> u32 {
    return select(cache.key_row_words, cache.value_row_words, is_values(flags));
}

// Where a head of the arena begins.
fn head_base(flags: u32, head: u32) -> u32 {
    return (params.arena_head + head) * select(cache.key_head_stride, cache.value_head_stride, is_values(flags));
}

fn stamp_at(own: Move, head: u32) -> u32 {
    return (params.arena_head + head) * cache.key_head_stride + own.stamp;
}

// Whether the sequence is as the change found it when it was recorded. What the change before it
// would have done is missing where that was dropped, and then nothing may move: rows would be
// overwritten that have never left for a pack.
fn is_due(own: Move, head: u32) -> bool {
    if own.expected == 0u {
        return true;
    }
    return keys[stamp_at(own, head)] == own.expected;
}

fn load(flags: u32, at: u32) -> u32 {
    if is_values(flags) {
        return values[at];
    }
    return keys[at];
}

fn store(flags: u32, at: u32, word: u32) {
    if is_values(flags) {
        values[at] = word;
    } else {
        keys[at] = word;
    }
}

fn levels(bits: u32) -> u32 {
    return (1u << bits) - 1u;
}

// The last of a move's widths.
fn last_width(widths: u32) -> u32 {
    var rest = widths;
    while rest >= 16u {
        rest >>= 4u;
    }
    return rest;
}

// Codes of the first width, taken through all the others: the nearest level each time, as
// src/cache/quantize.rs says.
fn stepped(codes: vec4<u32>, widths: u32) -> vec4<u32> {
    var code = codes;
    var n = levels(widths & 15u);
    var rest = widths >> 4u;
    while rest != 0u {
        let next = levels(rest & 15u);
        code = quotient(2u * code * next + n, vec4<u32>(2u * n));
        n = next;
        rest >>= 4u;
    }
    return code;
}

const LANES = vec4<u32>(0u, 1u, 2u, 3u);

// Four codes, the first in the lowest bits.
fn joined(codes: vec4<u32>, bits: u32) -> u32 {
    let placed = codes << (LANES * bits);
    return placed.x | placed.y | placed.z | placed.w;
}
