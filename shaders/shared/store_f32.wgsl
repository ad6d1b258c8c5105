// The output in f32 storage: four channels are one vec4.
alias OutputQuad = vec4<f32>;

fn store_quad(value: vec4<f32>) -> OutputQuad {
    return value;
}
