// quantize: segments of a staircase cache (arXiv 2410.18441) that were rows of f16 numbers become
// codes.
//
//   code = (2·t·(2^b − 1) + R) / (2R),  t = x − min and R = max − min of the group,
//
// in integers scaled by one power of two to at most 22 bits,
// then stepped down to the width of the rung where the segment arrives. Every number is an integer,
// so that the host (src/cache/quantize.rs, which says why this is exact enough) holds the same
// bits.
//
// Shapes      input k, v (batch, H_kv, capacity, D), any strides · packs of S·D'·b/32 words of
//             codes, then S·D'/G words min | max << 16
// Groups      keys: G tokens × 1 channel; values: 1 token × G channels. Channels past D hold code 0
//             and take no part in extremes
// Moves       a segment whose first rows lie in the arena (in the ring of the residual, or in a
//             pack of 16 bits), the later ones in the input. A unit is four groups of adjacent
//             channels (keys), or one (values)
// Workgroups  one per (head, INVOCATIONS of the line of all moves' units), numbered in one line and
//             folded into x and y
// Barriers    none: a group's words are whole, so nobody shares one

#import cache/each_unit
#import cache/rows
#import cache/halves

// A number that orders finite f16 bits as the numbers they are, −0 below +0.
fn order(half: vec4<u32>) -> vec4<u32> {
    return half ^ select(vec4<u32>(0x8000u), vec4<u32>(0xffffu), (half & vec4<u32>(0x8000u)) != vec4<u32>(0u));
}

fn from_order(place: vec4<u32>) -> vec4<u32> {
    return place ^ select(vec4<u32>(0xffffu), vec4<u32>(0x8000u), (place & vec4<u32>(0x8000u)) != vec4<u32>(0u));
}

// Four groups in integers.
struct Scaled {
    shift: vec4<u32>,
    low: vec4<i32>,
    range: vec4<u32>,
}

fn scaled(least: vec4<u32>, most: vec4<u32>) -> Scaled {
    let coarse = max(max(exponent(least), exponent(most)), vec4<u32>(10u)) - vec4<u32>(10u);
    let range = vec4<u32>(aligned(most, coarse) - aligned(least, coarse));
    let spare = min(countLeadingZeros(range) - vec4<u32>(10u), vec4<u32>(2u));
    let shift = coarse - min(coarse, spare);
    let low = aligned(least, shift);
    return Scaled(shift, low, vec4<u32>(aligned(most, shift) - low));
}

fn codes_of(half: vec4<u32>, group: Scaled, widths: u32) -> vec4<u32> {
    let t = vec4<u32>(aligned(half, group.shift) - group.low);
    let twice = max(2u * group.range, vec4<u32>(1u));
    let code = quotient(2u * t * levels(widths & 15u) + group.range, twice);
    return stepped(select(code, vec4<u32>(0u), group.range == vec4<u32>(0u)), widths);
}

// G tokens of four channels.
fn quantize_keys(own: Move, head: u32, unit: u32) {
    let flags = own.flags;
    let widths = own.widths;
    let bits = last_width(widths);
    let padded_quads = cache.key_row_words / 2u;
    let first_row = unit / padded_quads * cache.group;
    let quad = unit % padded_quads;
    // Group i of the pack, and those of the next three channels.
    let i = 4u * unit;
    let group_words = cache.group / 32u * bits;
    let pack = head_base(flags, head) + own.destination;
    let extremes = pack + cache.segment * cache.key_row_words / 16u * bits;
    if quad >= params.k_quads {
        for (var j = i; j < i + 4u; j++) {
            keys[extremes + j] = 0u;
            for (var word = 0u; word < group_words; word++) {
                keys[pack + j * group_words + word] = 0u;
            }
        }
        return;
    }
    var least = vec4<u32>(0xffffu);
    var most = vec4<u32>(0u);
    for (var row = 0u; row < cache.group; row++) {
        let place = order(row_quad(own, head, first_row + row, quad));
        least = min(least, place);
        most = max(most, place);
    }
    report(flags, refused);
    least = from_order(least);
    most = from_order(most);
    let group = scaled(least, most);
    for (var j = 0u; j < 4u; j++) {
        keys[extremes + i + j] = least[j] | (most[j] << 16u);
    }
    var at = pack + i * group_words;
    var packed = vec4<u32>(0u);
    var filled = 0u;
    for (var row = 0u; row < cache.group; row++) {
        let code = codes_of(row_quad(own, head, first_row + row, quad), group, widths);
        packed |= code << vec4<u32>(filled);
        filled += bits;
        if filled >= 32u {
            filled -= 32u;
            keys[at] = packed.x;
            keys[at + group_words] = packed.y;
            keys[at + 2u * group_words] = packed.z;
            keys[at + 3u * group_words] = packed.w;
            at++;
            // What is left of a code that two words share.
            packed = code >> vec4<u32>(bits - filled);
        }
    }
}

// G channels of one token.
fn quantize_values(own: Move, head: u32, unit: u32) {
    let flags = own.flags;
    let widths = own.widths;
    let bits = last_width(widths);
    let groups = 2u * cache.value_row_words / cache.group;
    let row = unit / groups;
    let first = unit % groups * (cache.group / 4u);
    let end = min(first + cache.group / 4u, max(params.v_quads, first));
    let group_words = cache.group / 32u * bits;
    let pack = head_base(flags, head) + own.destination;
    var least = vec4<u32>(0xffffu);
    var most = vec4<u32>(0u);
    for (var quad = first; quad < end; quad++) {
        let place = order(row_quad(own, head, row, quad));
        least = min(least, place);
        most = max(most, place);
    }
    report(flags, refused);
    least = from_order(vec4<u32>(min(min(least.x, least.y), min(least.z, least.w))));
    most = from_order(vec4<u32>(max(max(most.x, most.y), max(most.z, most.w))));
    if first == end {
        least = vec4<u32>(0u);
        most = vec4<u32>(0u);
    }
    let group = scaled(least, most);
    values[pack + cache.segment * cache.value_row_words / 16u * bits + unit] = least.x | (most.x << 16u);
    var at = pack + unit * group_words;
    var packed = 0u;
    var filled = 0u;
    for (var quad = first; quad < first + cache.group / 4u; quad++) {
        var code = vec4<u32>(0u);
        if quad < end {
            code = codes_of(row_quad(own, head, row, quad), group, widths);
        }
        let four = joined(code, bits);
        packed |= four << filled;
        filled += 4u * bits;
        if filled >= 32u {
            filled -= 32u;
            values[at] = packed;
            at++;
            packed = select(0u, four >> (4u * bits - filled), filled > 0u);
        }
    }
}

fn take(own: Move, head: u32, unit: u32) {
    if is_values(own.flags) {
        quantize_values(own, head, unit);
    } else {
        quantize_keys(own, head, unit);
    }
}
