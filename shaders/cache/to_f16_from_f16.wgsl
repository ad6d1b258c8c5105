// Appended keys and values in f16 storage, two channels to a word.
alias InputQuad = vec2<u32>;

fn to_f16(quad: InputQuad) -> vec4<u32> {
    return unpack_halves(quad);
}
