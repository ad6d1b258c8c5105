// Where a staircase cache holds its tokens: the addresses of src/cache/region.rs, in words from the
// start of a region. Everything here is uniform over a workgroup.

struct CacheRung {
    end: u32,          // the age at which segments leave it; the largest number on the last rung
    bits: u32,         // 16, 8, 4, 3, 2; 0 where tokens are dropped
    base: u32,         // the first word of its first pack
    packs: u32,        // of its ring
    pack_words: u32,
    unused_a: u32,
    unused_b: u32,
    unused_c: u32,
}

// What rotated codes of one side need (src/cache/rotated).
struct CacheCoding {
    block_quads: u32,  // of the transform
    offset: i32,       // sixths of an octave that scale 0 would have
    list: u32,         // words behind the codes: the list of fine tokens
    fine: u32,         // … and their codes
    // By sixths of an octave: a reciprocal with 16 bits, the power of two that goes with it, and
    // the f32 number that a scale stands for, but for a power of two.
    scales: array<vec4<u32>, 6>,
}

struct CacheLayout {
    segment: u32,          // tokens
    group: u32,            // numbers that share their extremes
    sinks: u32,            // tokens that have precise copies
    residual_rows: u32,    // of the ring
    key_row_words: u32,    // of a row of f16 numbers
    value_row_words: u32,
    key_residual: u32,     // the first word of the ring
    value_residual: u32,
    key_head_stride: u32,  // words from one head's region to the next
    value_head_stride: u32,
    summary_tokens: u32,   // of a group of keys with a summary; 0 without summaries
    summary_words: u32,    // of a pack of keys
    key_behind: u32,       // words behind the codes of a pack
    value_behind: u32,
    fine_tokens: u32,      // of a segment of rotated codes
    unused: u32,
    key_rungs: array<CacheRung, CACHE_RUNGS>,
    value_rungs: array<CacheRung, CACHE_RUNGS>,
    codings: array<CacheCoding, 2>,     // keys, values
    thresholds: array<vec4<u32>, 16>,   // of rotated codes at 8 bits, two to a word
    levels: array<vec4<u32>, 16>,       // alike, the positive ones
}

// Where the keys or the values of a run of tokens lie.
struct Stored {
    bits: u32,   // 16: rows of f16 numbers; 0: nowhere
    base: u32,   // of bits 16, the row of the run's first token; else the pack
}

// The rung of a segment of this age.
fn rung_of_keys(age: u32) -> u32 {
    var rung = 0u;
    while age >= cache.key_rungs[rung].end {
        rung++;
    }
    return rung;
}

fn rung_of_values(age: u32) -> u32 {
    var rung = 0u;
    while age >= cache.value_rungs[rung].end {
        rung++;
    }
    return rung;
}

// Tokens that lie together: from `first` up to `end`, all at the same widths, in one segment, in
// rows that follow each other.
struct Run {
    end: u32,
    keys: Stored,
    values: Stored,
}

// The run that begins at token `first` of a sequence of which `segments` segments have left the
// residual.
fn run_at(first: u32, segments: u32) -> Run {
    if first < cache.sinks {
        return Run(
            cache.sinks,
            Stored(16u, first * cache.key_row_words),
            Stored(16u, first * cache.value_row_words),
        );
    }
    let segment = first / cache.segment;
    if segment >= segments {
        let row = first % cache.residual_rows;
        return Run(
            first - row + cache.residual_rows,
            Stored(16u, cache.key_residual + row * cache.key_row_words),
            Stored(16u, cache.value_residual + row * cache.value_row_words),
        );
    }
    let age = segments - 1u - segment;
    let k = cache.key_rungs[rung_of_keys(age)];
    let v = cache.value_rungs[rung_of_values(age)];
    var key_base = k.base + segment % k.packs * k.pack_words;
    var value_base = v.base + segment % v.packs * v.pack_words;
    let within = first % cache.segment;
    if k.bits == 16u {
        key_base += within * cache.key_row_words;
    }
    if v.bits == 16u {
        value_base += within * cache.value_row_words;
    }
    return Run((segment + 1u) * cache.segment, Stored(k.bits, key_base), Stored(v.bits, value_base));
}
