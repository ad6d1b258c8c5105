// The output in bf16 storage, two channels to a word: the upper half of an f32.
alias OutputQuad = vec2<u32>;

// To nearest, ties to even, in integers; a NaN stays one.
fn round_bf16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return 0x7fc0u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn store_quad(value: vec4<f32>) -> OutputQuad {
    return vec2<u32>(round_bf16(value.x) | (round_bf16(value.y) << 16u), round_bf16(value.z) | (round_bf16(value.w) << 16u));
}
