// Appended keys and values in f16 storage, two channels to a word.
alias InputQuad = vec2<u32>;

fn to_f16(quad: InputQuad) -> vec4<u32> {
    return unpack_halves(quad);
}

// Halves are in order as they are.
fn most_of_input(quad: InputQuad) -> u32 {
    return most_of_halves(unpack_halves(quad));
}

fn half_of_most(most: u32) -> u32 {
    return most;
}
