// Keys and values of a step from a cache of rotated codes. Codes are turned back where they lie,
// stage by stage of the Walsh–Hadamard transform, and then keys get their mean.
            let coded_keys = run.keys.bits != 16u;
            let coded_values = run.values.bits != 16u;
            let within = u32(j) % cache.segment;
            for (var i = lane; i < KEYS * HEAD_QUADS; i += INVOCATIONS) {
                let t = i / HEAD_QUADS;
                let c = i % HEAD_QUADS;
                if coded_keys {
                    stage_key(t, c, Quad(turned_quad(coded_key(k_base + run.keys.base, run.keys.bits, within + t, c) * HEAD_TURN)));
                } else {
                    stage_key(t, c, Quad(row_quad_of_keys(run.keys, u32(first_key), u32(j) + t, k_base, c)));
                }
            }
            for (var i = lane; i < KEYS * VALUE_QUADS; i += INVOCATIONS) {
                let t = i / VALUE_QUADS;
                let c = i % VALUE_QUADS;
                if coded_values {
                    stage_value(t, c, Quad(turned_quad(coded_value(v_base + run.values.base, run.values.bits, within + t, c) * VALUE_TURN)));
                } else {
                    stage_value(t, c, Quad(value_quad(run.values, u32(first_key), u32(j) + t, v_base, c)));
                }
            }
            if coded_keys {
                for (var half = 1u; half < cache.codings[0].block_quads; half *= 2u) {
                    workgroupBarrier();
                    for (var i = lane; i < KEYS * (HEAD_QUADS / 2u); i += INVOCATIONS) {
                        let t = i / (HEAD_QUADS / 2u);
                        let pair = i % (HEAD_QUADS / 2u);
                        let c = pair / half * 2u * half + pair % half;
                        let a = staged_key(t, c);
                        let b = staged_key(t, c + half);
                        stage_key(t, c, a + b);
                        stage_key(t, c + half, a - b);
                    }
                }
                workgroupBarrier();
                let means = k_base + run.keys.base + cache.segment * HEAD_WORDS * run.keys.bits + cache.segment / 4u;
                for (var i = lane; i < KEYS * HEAD_QUADS; i += INVOCATIONS) {
                    let t = i / HEAD_QUADS;
                    let c = i % HEAD_QUADS;
                    let mean = vec4<f32>(f16_pair(key_words[means + 2u * c]), f16_pair(key_words[means + 2u * c + 1u]));
                    stage_key(t, c, staged_key(t, c) + Quad(mean));
                }
            }
            if coded_values {
                for (var half = 1u; half < cache.codings[1].block_quads; half *= 2u) {
                    workgroupBarrier();
                    for (var i = lane; i < KEYS * (VALUE_QUADS / 2u); i += INVOCATIONS) {
                        let t = i / (VALUE_QUADS / 2u);
                        let pair = i % (VALUE_QUADS / 2u);
                        let c = pair / half * 2u * half + pair % half;
                        let a = staged_value(t, c);
                        let b = staged_value(t, c + half);
                        stage_value(t, c, a + b);
                        stage_value(t, c + half, a - b);
                    }
                }
            }
