// Keys of a step.
            for (var i = lane; i < KEYS * HEAD_QUADS; i += INVOCATIONS) {
                let key = min(j + i32(i / HEAD_QUADS), end_key - 1);
                let c = i % HEAD_QUADS;
                #if PAGED: let k_at = k_base + paged_key(sequence, u32(key));
                #unless PAGED: let k_at = k_base + u32(key) * params.k_row_stride;
#if ROPE
                stage_key(i / HEAD_QUADS, c, Quad(rotated(load_quad(k[k_at + c]), load_quad(k[k_at + partner(c)]), key_position(sequence, key), c)));
#else
                stage_key(i / HEAD_QUADS, c, load_own(k[k_at + c]));
#end
            }
