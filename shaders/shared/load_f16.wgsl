// Q, K and V in f16 storage, two channels to a word: unpacking is core WGSL, so no device feature
// is needed.
alias InputQuad = vec2<u32>;

fn load_quad(quad: InputQuad) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(quad.x), unpack2x16float(quad.y));
}
