// Appended keys and values in bf16 storage, two channels to a word: the upper half of an f32.

#import cache/round_to_half

alias InputQuad = vec2<u32>;

fn to_f32(quad: InputQuad) -> vec4<u32> {
    return vec4<u32>(quad.x << 16u, quad.x & 0xffff0000u, quad.y << 16u, quad.y & 0xffff0000u);
}

fn to_f16(quad: InputQuad) -> vec4<u32> {
    return round_to_half(to_f32(quad));
}

fn most_of_input(quad: InputQuad) -> u32 {
    return most_finite(to_f32(quad));
}
