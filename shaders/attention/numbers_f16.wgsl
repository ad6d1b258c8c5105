// Products in f16, of inputs in f16: hardware takes two at a time. What is summed over many keys or
// channels is summed in f32.

enable f16;

alias InputQuad = vec4<f16>;
alias Number = f16;
alias Quad = vec4<f16>;

fn load_quad(quad: InputQuad) -> vec4<f32> {
    return vec4<f32>(quad);
}

fn load_own(quad: InputQuad) -> Quad {
    return quad;
}

fn sum_of(quad: Quad) -> f32 {
    let pair = quad.xy + quad.zw;
    return f32(pair.x) + f32(pair.y);
}
