// Keys and values of a step, expanded from a cache.
            for (var c = lane; c < HEAD_QUADS; c += INVOCATIONS) {
                let own = key_quads(run.keys, u32(first_key), u32(j), k_base, c);
#if ROTATE_KEYS
                let other = key_quads(run.keys, u32(first_key), u32(j), k_base, partner(c));
                stage_key(0u, c, rotated(own.x, other.x, key_position(sequence, j), c));
                stage_key(1u, c, rotated(own.y, other.y, key_position(sequence, min(j + 1, end_key - 1)), c));
                stage_key(2u, c, rotated(own.z, other.z, key_position(sequence, min(j + 2, end_key - 1)), c));
                stage_key(3u, c, rotated(own.w, other.w, key_position(sequence, min(j + 3, end_key - 1)), c));
#else
                stage_key(0u, c, own.x);
                stage_key(1u, c, own.y);
                stage_key(2u, c, own.z);
                stage_key(3u, c, own.w);
#end
            }
            for (var i = lane; i < KEYS * VALUE_QUADS; i += INVOCATIONS) {
                stage_value(i / VALUE_QUADS, i % VALUE_QUADS, value_quad(run.values, u32(first_key), u32(j) + i / VALUE_QUADS, v_base, i % VALUE_QUADS));
            }
