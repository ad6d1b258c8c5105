// The rows of a move as f16 bits, wherever they lie.

#import cache/moves
#import cache/to_f16_from_$(INPUT)

@group(2) @binding(0) var<storage, read> k: array<InputQuad>;
@group(2) @binding(1) var<storage, read> v: array<InputQuad>;

// How many numbers of the input that row_quad returned weren't finite as f16.
var<private> refused: u32 = 0u;

fn unpack_halves(quad: vec2<u32>) -> vec4<u32> {
    return vec4<u32>(quad.x & 0xffffu, quad.x >> 16u, quad.y & 0xffffu, quad.y >> 16u);
}

// Four channels of a row. What isn't finite becomes +0, so that it can't spoil its group.
fn row_quad(own: Move, head: u32, row: u32, quad: u32) -> vec4<u32> {
    let flags = own.flags;
    if row < own.held {
        var place = own.source_row + row;
        place = select(place, place - own.source_ring, place >= own.source_ring);
        let at = head_base(flags, head) + own.source + place * row_words(flags) + 2u * quad;
        return unpack_halves(vec2<u32>(load(flags, at), load(flags, at + 1u)));
    }
    let input_head = params.input_head + head;
    var half: vec4<u32>;
    if is_values(flags) {
        half = to_f16(v[own.input + input_head * params.v_head_stride + row * params.v_row_stride + quad]);
    } else {
        half = to_f16(k[own.input + input_head * params.k_head_stride + row * params.k_row_stride + quad]);
    }
    let bad = (half & vec4<u32>(0x7c00u)) == vec4<u32>(0x7c00u);
    if any(bad) {
        let ones = select(vec4<u32>(0u), vec4<u32>(1u), bad);
        refused += ones.x + ones.y + ones.z + ones.w;
        half = select(half, vec4<u32>(0u), bad);
    }
    return half;
}

fn most_of_halves(half: vec4<u32>) -> u32 {
    let magnitude = half & vec4<u32>(0x7fffu);
    let finite = select(vec4<u32>(0u), magnitude, magnitude < vec4<u32>(0x7c00u));
    return max(max(finite.x, finite.y), max(finite.z, finite.w));
}

// Channels of a row in quads, without padding.
fn channel_quads(flags: u32) -> u32 {
    return select(params.k_quads, params.v_quads, is_values(flags));
}

fn report(flags: u32, count: u32) {
    if count > 0u {
        atomicAdd(&unsound[flags & FLAG_VALUES], count);
    }
}
