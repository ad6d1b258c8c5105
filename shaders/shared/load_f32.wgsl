// Q, K and V in f32 storage: four channels are one vec4.
alias InputQuad = vec4<f32>;

fn load_quad(quad: InputQuad) -> vec4<f32> {
    return quad;
}
