// Values of a step.
            for (var i = lane; i < KEYS * VALUE_QUADS; i += INVOCATIONS) {
                let key = u32(min(j + i32(i / VALUE_QUADS), end_key - 1));
                #if PAGED: let v_at = v_base + paged_value(sequence, key);
                #unless PAGED: let v_at = v_base + key * params.v_row_stride;
                stage_value(i / VALUE_QUADS, i % VALUE_QUADS, load_own(v[v_at + i % VALUE_QUADS]));
            }
