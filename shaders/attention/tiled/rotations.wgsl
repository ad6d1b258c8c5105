// The rotations that a lane needs for its part of every step, which stay in its registers.
    // What this lane rotates: quads `rotate_quad` of the keys from `rotate_first` on, ROTATE_EACH
    // of each step.
    let rotate_quad = lane % ROTATE_QUADS;
    let rotate_first = lane / ROTATE_QUADS * ROTATE_EACH;
#for u in ROTATE_EACH, h in ROTATE_TOGETHER
    let step$u_$h = position_table[params.rope_steps + ((rotate_first + $uu) % KEYS) * ROTARY_QUADS + ROTATE_TOGETHER * rotate_quad + $hu];
#end
#for h in ROTATE_TOGETHER
    let leap$h = position_table[params.rope_steps + KEYS * ROTARY_QUADS + ROTATE_TOGETHER * rotate_quad + $hu];
    var base$h = vec4<f32>(0.0);
#end
