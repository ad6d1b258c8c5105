// Quads of rows as a rotation leaves them, one at a time.

#import attention/rope

#if ROPE
// The quad that quad c is rotated with: itself, or the one half of the rotary dimension away.
fn partner(c: u32) -> u32 {
#if ROPE_HALF
    if c < ROTARY_QUADS {
        return (c + HALF_QUADS) % ROTARY_QUADS;
    }
#end
    return c;
}

// Quad c of a row at a position, from the quad and its partner.
fn rotated(own: vec4<f32>, other: vec4<f32>, position: i32, c: u32) -> vec4<f32> {
    if c >= ROTARY_QUADS {
        return own;
    }
#if ROPE_HALF
    let pairs = 2u * (c % HALF_QUADS);
    let a = rotation(position, pairs);
    let b = rotation(position, pairs + 1u);
    let cosine = vec4<f32>(a.xz, b.xz);
    let sine = vec4<f32>(a.yw, b.yw);
    return own * cosine + other * select(sine, -sine, c < HALF_QUADS);
#else
    return rotate_pairs(own, rotation(position, c));
#end
}
#end
