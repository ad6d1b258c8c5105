// Appended keys and values in f32 storage, as bits.

#import cache/round_to_half

alias InputQuad = vec4<u32>;

fn to_f16(quad: InputQuad) -> vec4<u32> {
    return round_to_half(quad);
}

fn most_of_input(quad: InputQuad) -> u32 {
    return most_finite(quad);
}
