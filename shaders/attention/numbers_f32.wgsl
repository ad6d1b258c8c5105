// Products in f32.

#import shared/load_$(STORAGE)

alias Number = f32;
alias Quad = vec4<f32>;

fn load_own(quad: InputQuad) -> Quad {
    return load_quad(quad);
}

fn sum_of(quad: Quad) -> f32 {
    return (quad.x + quad.y) + (quad.z + quad.w);
}
