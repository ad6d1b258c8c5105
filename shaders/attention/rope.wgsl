// Rotations, tabulated by the host (src/attention/position_table.rs): a quad is (cos, sin) of two
// pairs, times the temperature. Positions are high·ROPE_STRIDE + low, and the rotations of the two
// levels are multiplied as complex numbers (high 0 is no rotation).

#import attention/position_table

#if ROPE
// Two complex products.
fn rotate_pairs(z: vec4<f32>, by: vec4<f32>) -> vec4<f32> {
    return z.xxzz * by + vec4<f32>(-z.y, z.y, -z.w, z.w) * by.yxwz;
}

// The rotation of the pairs 2c and 2c + 1 at a position.
fn rotation(position: i32, c: u32) -> vec4<f32> {
    let magnitude = u32(abs(position));
    var by = position_table[params.rope_low + (magnitude % ROPE_STRIDE) * ROTARY_QUADS + c];
    if magnitude >= ROPE_STRIDE {
        by = rotate_pairs(position_table[params.rope_high + (magnitude / ROPE_STRIDE) * ROTARY_QUADS + c], by);
    }
    // To the other side for negative positions.
    return select(by, by * vec4<f32>(1.0, -1.0, 1.0, -1.0), position < 0);
}
#end
