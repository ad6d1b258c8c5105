// The lane's channels of a query, 0 where rows of codes are padded, and as they were before they
// turn with codes.
    var plain_q$r: array<vec4<f32>, HEAD_PARTS>;
    for (var t = 0u; t < HEAD_PARTS; t++) {
        let quad = own_quad(t, component);
        if quad < HEAD_QUADS {
#if ROPE
            plain_q$r[t] = rotated(load_quad(q[q_at$r + quad]), load_quad(q[q_at$r + partner(quad)]), position$r, quad) * params.scale;
#else
            plain_q$r[t] = load_quad(q[q_at$r + quad]) * params.scale;
#end
        }
    }
    #for i in HEAD_CHUNKS, h in HALVES: var q$r_$i_$h = plain_q$r[2u * $iu + $hu];
    #for i in VALUE_CHUNKS, h in HALVES: var o$r_$i_$h = vec4<f32>(0.0);
