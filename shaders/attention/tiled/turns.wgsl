// The rotations that a lane needs for its part of every step, which stay in its registers.
    // What this lane turns: quads `turn_quad` of the keys from `turn_first` on, TURN_KEYS of each
    // step.
    let turn_quad = lane % TURN_QUADS;
    let turn_first = lane / TURN_QUADS * TURN_KEYS;
#for u in TURN_KEYS, h in TURN_PARTS
    let step$u_$h = position_table[params.rope_steps + ((turn_first + $uu) % KEYS) * ROTARY_QUADS + TURN_PARTS * turn_quad + $hu];
#end
#for h in TURN_PARTS
    let leap$h = position_table[params.rope_steps + KEYS * ROTARY_QUADS + TURN_PARTS * turn_quad + $hu];
    var base$h = vec4<f32>(0.0);
#end
