// Where a staircase cache holds its tokens: the addresses of src/cache/region.rs, in words from the start of a region. Everything here is uniform over a workgroup.

struct CacheRung {
    end: u32,          // the age at which segments leave it; the largest number on the last rung
    bits: u32,         // 16, 8, 4, 3, 2; 0 where tokens are dropped
    base: u32,         // the first word of its first block
    blocks: u32,       // of its ring
    block_words: u32,
    unused_a: u32,
    unused_b: u32,
    unused_c: u32,
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
    unused_a: u32,
    unused_b: u32,
    key_rungs: array<CacheRung, CACHE_RUNGS>,
    value_rungs: array<CacheRung, CACHE_RUNGS>,
}

// Where the keys or the values of a run of tokens lie.
struct Stored {
    bits: u32,   // 16: rows of f16 numbers; 0: nowhere
    base: u32,   // of bits 16, the row of the run's first token; else the block
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

// Tokens that lie together: from `first` up to `end`, all at the same widths, in one segment, in rows that follow each other.
struct Run {
    end: u32,
    keys: Stored,
    values: Stored,
}

// The run that begins at token `first` of a sequence of which `segments` segments have left the residual.
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
    var key_base = k.base + segment % k.blocks * k.block_words;
    var value_base = v.base + segment % v.blocks * v.block_words;
    let within = first % cache.segment;
    if k.bits == 16u {
        key_base += within * cache.key_row_words;
    }
    if v.bits == 16u {
        value_base += within * cache.value_row_words;
    }
    return Run((segment + 1u) * cache.segment, Stored(k.bits, key_base), Stored(v.bits, value_base));
}

// Two f16 numbers that lie in one word.
fn halves(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}

// (min, (max − min)/N) of a group.
fn scale_of(extremes: u32, bits: u32) -> vec2<f32> {
    let pair = halves(extremes);
    return vec2<f32>(pair.x, (pair.y - pair.x) * (1.0 / f32((1u << bits) - 1u)));
}

// 32 bits from bit `at` of two words on: four codes of at most 8 bits that begin there.
fn window(low: u32, high: u32, at: u32) -> u32 {
    // A shift by 32 isn't one.
    return (low >> at) | select(0u, high << ((32u - at) & 31u), at > 0u);
}

// Four codes as numbers.
fn codes(bits_from: u32, bits: u32) -> vec4<f32> {
    let mask = (1u << bits) - 1u;
    return vec4<f32>((vec4<u32>(bits_from) >> (vec4<u32>(0u, 1u, 2u, 3u) * bits)) & vec4<u32>(mask));
}

// Quad c of the keys of four tokens: x, y, z, w are those of the tokens `token` … `token + 3`, a multiple of 4 (within its segment), of which the run has `first` and those after it.
struct KeyQuads {
    x: vec4<f32>,
    y: vec4<f32>,
    z: vec4<f32>,
    w: vec4<f32>,
}

fn row_quad_of_keys(stored: Stored, first: u32, token: u32, base: u32, c: u32) -> vec4<f32> {
    // Tokens before the run are computed and not seen.
    let at = base + stored.base + (max(token, first) - first) * cache.key_row_words + 2u * c;
    return vec4<f32>(halves(k[at]), halves(k[at + 1u]));
}

fn key_quads(stored: Stored, first: u32, token: u32, base: u32, c: u32) -> KeyQuads {
    if stored.bits == 16u {
        return KeyQuads(
            row_quad_of_keys(stored, first, token, base, c),
            row_quad_of_keys(stored, first, token + 1u, base, c),
            row_quad_of_keys(stored, first, token + 2u, base, c),
            row_quad_of_keys(stored, first, token + 3u, base, c),
        );
    }
    let within = token % cache.segment;
    let channels = 2u * cache.key_row_words;
    let block = base + stored.base;
    let extremes = block + cache.segment * channels / 32u * stored.bits + within / cache.group * channels + 4u * c;
    let words = cache.group / 32u * stored.bits;  // of a group
    let bit = within % cache.group * stored.bits;
    var at = block + (within / cache.group * channels + 4u * c) * words + bit / 32u;
    var four: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        // Only codes of 3 bits straddle words; others never look at the next one.
        let next = select(at, at + 1u, bit % 32u + 4u * stored.bits > 32u);
        let scale = scale_of(k[extremes + i], stored.bits);
        four[i] = codes(window(k[at], k[next], bit % 32u), stored.bits) * scale.y + scale.x;
        at += words;
    }
    return KeyQuads(
        vec4<f32>(four[0].x, four[1].x, four[2].x, four[3].x),
        vec4<f32>(four[0].y, four[1].y, four[2].y, four[3].y),
        vec4<f32>(four[0].z, four[1].z, four[2].z, four[3].z),
        vec4<f32>(four[0].w, four[1].w, four[2].w, four[3].w),
    );
}

// Quad c of the value of a token.
fn value_quad(stored: Stored, first: u32, token: u32, base: u32, c: u32) -> vec4<f32> {
    if stored.bits == 16u {
        let at = base + stored.base + (max(token, first) - first) * cache.value_row_words + 2u * c;
        return vec4<f32>(halves(v[at]), halves(v[at + 1u]));
    }
    let within = token % cache.segment;
    let channels = 2u * cache.value_row_words;
    let block = base + stored.base;
    let extremes = block + cache.segment * channels / 32u * stored.bits + (within * channels + 4u * c) / cache.group;
    let bit = 4u * c * stored.bits;
    let at = block + within * (channels / 32u * stored.bits) + bit / 32u;
    let next = select(at, at + 1u, bit % 32u + 4u * stored.bits > 32u);
    let scale = scale_of(v[extremes], stored.bits);
    return codes(window(v[at], v[next], bit % 32u), stored.bits) * scale.y + scale.x;
}
