// What a cache's words mean: numbers from the rows and packs of src/cache/pack.rs.

#import attention/arena

// Two f16 numbers that lie in one word.
fn f16_pair(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}

// (min, (max − min)/N) of a group.
fn scale_of(extremes: u32, bits: u32) -> vec2<f32> {
    let pair = f16_pair(extremes);
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

// Quad c of the keys of four tokens: x, y, z, w are those of the tokens `token` … `token + 3`, a
// multiple of 4 (within its segment), of which the run has `first` and those after it.
struct KeyQuads {
    x: vec4<f32>,
    y: vec4<f32>,
    z: vec4<f32>,
    w: vec4<f32>,
}

fn row_quad_of_keys(stored: Stored, first: u32, token: u32, base: u32, c: u32) -> vec4<f32> {
    // Tokens before the run are computed and not seen.
    let at = base + stored.base + (max(token, first) - first) * cache.key_row_words + 2u * c;
    return vec4<f32>(f16_pair(key_words[at]), f16_pair(key_words[at + 1u]));
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
    let pack = base + stored.base;
    let extremes = pack + cache.segment * channels / 32u * stored.bits + within / cache.group * channels + 4u * c;
    let words = cache.group / 32u * stored.bits;  // of a group
    let bit = within % cache.group * stored.bits;
    var at = pack + (within / cache.group * channels + 4u * c) * words + bit / 32u;
    var four: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        // Only codes of 3 bits straddle words; others never look at the next one.
        let next = select(at, at + 1u, bit % 32u + 4u * stored.bits > 32u);
        let scale = scale_of(key_words[extremes + i], stored.bits);
        four[i] = codes(window(key_words[at], key_words[next], bit % 32u), stored.bits) * scale.y + scale.x;
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
        return vec4<f32>(f16_pair(value_words[at]), f16_pair(value_words[at + 1u]));
    }
    let within = token % cache.segment;
    let channels = 2u * cache.value_row_words;
    let pack = base + stored.base;
    let extremes = pack + cache.segment * channels / 32u * stored.bits + (within * channels + 4u * c) / cache.group;
    let bit = 4u * c * stored.bits;
    let at = pack + within * (channels / 32u * stored.bits) + bit / 32u;
    let next = select(at, at + 1u, bit % 32u + 4u * stored.bits > 32u);
    let scale = scale_of(value_words[extremes], stored.bits);
    return codes(window(value_words[at], value_words[next], bit % 32u), stored.bits) * scale.y + scale.x;
}
