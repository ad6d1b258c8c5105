// Quad c of a $(side) in rotated channels; `within` is the token's number in the segment.
fn coded_$(side)(pack: u32, bits: u32, within: u32, c: u32) -> vec4<f32> {
    let behind = pack + cache.segment * ($(padded) / 32u) * bits;
    var width = bits;
    var row = pack + within * ($(padded) / 32u * bits);
    for (var index = 0u; index < cache.fine_tokens; index++) {
        let word = $(words)[behind + cache.codings[$(number)].list + index / 2u];
        if ((word >> (16u * (index % 2u))) & 0xffffu) == within {
            width = 8u;
            row = behind + cache.codings[$(number)].fine + index * ($(padded) / 4u);
        }
    }
    let bit = 4u * c * width;
    let at = row + bit / 32u;
    // Only codes of 3 bits straddle words; others never look at the next one.
    let next = select(at, at + 1u, bit % 32u + 4u * width > 32u);
    let word = window($(words)[at], $(words)[next], bit % 32u);
    let codes = (vec4<u32>(word) >> (vec4<u32>(0u, 1u, 2u, 3u) * width)) & vec4<u32>((1u << width) - 1u);
    let levels = vec4<f32>(level(codes.x, width), level(codes.y, width), level(codes.z, width), level(codes.w, width));
    return number_of_scale($(number), byte_of($(words)[behind + within / 4u], within)) * levels;
}
