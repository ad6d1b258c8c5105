// Stores the gradient of a row that scores see rotated: turned back, and scaled.
#if ROPE
        var turned$r: array<vec4<f32>, OWN_HEAD_QUADS>;
        #for c in OWN_HEAD_QUADS: turned$r[$c] = $(scale) * $(gradient)$r_$c;
        for (var i = 0u; i < OWN_HEAD_QUADS; i++) {
            let c = i * SLICES + slice;
            $(gradient)[$(at) + c] = store_quad(rotated(turned$r[i], turned$r[own_partner(i, slice)], -position$r, c));
        }
#else
        #for c in OWN_HEAD_QUADS: $(gradient)[$(at) + $cu * SLICES + slice] = store_quad($(scale) * $(gradient)$r_$c);
#end
