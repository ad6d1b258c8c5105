// Row r of a lane: what it sees, its query, and the start of its softmax.
    let row$r = first + i32(row_lane + $ru * ROW_LANES);
    let has_row$r = row$r >= rows.first_row && row$r <= rows.last_row;
    // A lane without a row computes row 0, sees nothing and writes nothing.
    let safe_row$r = select(0, row$r, has_row$r);
    var own$r = Visible(0, 0);
    if has_row$r {
        own$r = visible_keys(sequence, row$r);
    }
    #if MASKED: let mask_at$r = mask_row(sequence, params.first_head + head, safe_row$r);
    #if POSITIONS: let position$r = query_position(sequence, safe_row$r);
    let q_at$r = sequence.q_base + head * params.q_head_stride + u32(safe_row$r) * params.q_row_stride;
#if ROPE
    // In a loop, not written out: rotated once, and what follows should be able to forget how.
    var rotated_q$r: array<vec4<f32>, OWN_HEAD_QUADS>;
    for (var i = 0u; i < OWN_HEAD_QUADS; i++) {
        let c = own_head + i;
        rotated_q$r[i] = rotated(load_quad(q[q_at$r + c]), load_quad(q[q_at$r + partner(c)]), position$r, c) * params.scale;
    }
    #for c in OWN_HEAD_QUADS: let q$r_$c = Quad(rotated_q$r[$c]);
#else
    #for c in OWN_HEAD_QUADS: let q$r_$c = Quad(load_quad(q[q_at$r + own_head + $cu]) * params.scale);
#end
    #for c in OWN_VALUE_QUADS: var o$r_$c = vec4<f32>(0.0);
    var maximum$r = LOWEST;
    var sum$r = 0.0;
