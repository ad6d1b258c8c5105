// Keys of a step, rotated on their way: a lane has the same quads of every step.
            if lane < ROTATE_QUADS * KEYS / ROTATE_EACH {
                let counted = sequence.id_base == NO_TABLE;
                // The rotation of the step's first key: from the table every fourth step, by one
                // more product for the steps between.
                if (j - block.keys.lo) % (4 * i32(KEYS)) == 0 {
                    #for h in ROTATE_TOGETHER: base$h = rotation(key_position(sequence, j), ROTATE_TOGETHER * rotate_quad + $hu);
                } else {
                    #for h in ROTATE_TOGETHER: base$h = rotate_pairs(base$h, leap$h);
                }
#for u in ROTATE_EACH
                let key$u = min(j + i32(rotate_first + $uu), end_key - 1);
                #if PAGED: let k_at$u = k_base + paged_key(sequence, u32(key$u)) + rotate_quad;
                #unless PAGED: let k_at$u = k_base + u32(key$u) * params.k_row_stride + rotate_quad;
#for h in ROTATE_TOGETHER
                var by$u_$h = rotate_pairs(base$h, step$u_$h);
                if !counted {
                    by$u_$h = rotation(key_position(sequence, key$u), ROTATE_TOGETHER * rotate_quad + $hu);
                }
#end
#if ROPE_HALF
                let x$u = load_quad(k[k_at$u]);
                let y$u = load_quad(k[k_at$u + HALF_QUADS]);
                let a$u = rotate_pairs(vec4<f32>(x$u.x, y$u.x, x$u.y, y$u.y), by$u_0);
                let b$u = rotate_pairs(vec4<f32>(x$u.z, y$u.z, x$u.w, y$u.w), by$u_1);
                stage_key(rotate_first + $uu, rotate_quad, Quad(vec4<f32>(a$u.xz, b$u.xz)));
                stage_key(rotate_first + $uu, rotate_quad + HALF_QUADS, Quad(vec4<f32>(a$u.yw, b$u.yw)));
#else
                stage_key(rotate_first + $uu, rotate_quad, Quad(rotate_pairs(load_quad(k[k_at$u]), by$u_0)));
#end
#end
            }
#if PARTIAL
            for (var i = lane; i < KEYS * REST_QUADS; i += INVOCATIONS) {
                let key = u32(min(j + i32(i / REST_QUADS), end_key - 1));
                let c = ROTARY_QUADS + i % REST_QUADS;
                #if PAGED: let k_at = k_base + paged_key(sequence, key);
                #unless PAGED: let k_at = k_base + key * params.k_row_stride;
                stage_key(i / REST_QUADS, c, load_own(k[k_at + c]));
            }
#end
