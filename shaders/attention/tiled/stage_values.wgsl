// Values of a step.
            for (var i = lane; i < KEYS * VALUE_QUADS; i += INVOCATIONS) {
                let key = u32(min(j + i32(i / VALUE_QUADS), end_key - 1));
                stage_value(i / VALUE_QUADS, i % VALUE_QUADS, load_own(v[v_base + key * params.v_row_stride + i % VALUE_QUADS]));
            }
