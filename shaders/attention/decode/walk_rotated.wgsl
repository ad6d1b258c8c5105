// The keys of a block in a cache of rotated codes: run by run, and behind the tokens of a run, once
// more four at a time, its fine tokens, from their codes of 8 bits. Queries and outputs are turned
// where a run of rows follows one of codes, or the other way round.
        var next_key = max(block.keys.lo, 0);
        while next_key < block.keys.hi {
            let first = u32(next_key);
            let run = run_at(first, sequence.segments);
            let run_end = min(run.end, u32(block.keys.hi));
            next_key = i32(run_end);
            if run.keys.bits == 0u {
                continue; // dropped
            }
            let key_pack = key_base + run.keys.base;
            let value_pack = value_base + run.values.base;
            let coded_keys = run.keys.bits != 16u;
            let coded_values = run.values.bits != 16u;
            if coded_keys != turned_queries {
                turned_queries = coded_keys;
#for r in ROW_SETS
                {
                    var row: array<f32, HEAD_QUADS>;
                    #for c in HEAD_QUADS: row[$cu] = q$r_$c;
                    turn_head(&row, lane, odd, high);
                    #for c in HEAD_QUADS: q$r_$c = row[$cu];
                }
#end
            }
            if coded_values != turned_outputs {
                turned_outputs = coded_values;
#insert attention/decode/turn_outputs
            }
            let key_behind = key_pack + cache.segment * HEAD_WORDS * run.keys.bits;
            let value_behind = value_pack + cache.segment * (VALUE_PADDED / 32u) * run.values.bits;
            // ⟨q, μ⟩, of queries as they were.
            #for r in ROW_SETS: var base$r = 0.0;
            if coded_keys {
                let means = key_behind + cache.segment / 4u;
                for (var c = 0u; c < HEAD_QUADS; c++) {
                    let word = select(key_words[means + 2u * c], key_words[means + 2u * c + 1u], high);
                    let mean = f16_pair(word >> select(0u, 16u, odd)).x;
#for r in ROW_SETS
#if ROPE
                    base$r += pick(rotated_q$r[c], odd, high) * mean;
#else
                    base$r += pick(load_quad(q[q_at$r + c]), odd, high) * params.scale * mean;
#end
#end
                }
            }
            let segment_first = first / cache.segment * cache.segment;
            let fine_tokens = select(0u, cache.fine_tokens, coded_keys || coded_values);
            let whole = first / CACHE_KEYS * CACHE_KEYS;
            let steps = (run_end - whole + CACHE_KEYS - 1u) / CACHE_KEYS;
            for (var step = 0u; step < steps + (fine_tokens + CACHE_KEYS - 1u) / CACHE_KEYS; step++) {
                let is_fine = step >= steps;
                // Tokens of the step, −1 where one isn't to be seen here.
                var token = vec4<i32>(i32(whole + step * CACHE_KEYS)) + vec4<i32>(0, 1, 2, 3);
                var within = vec4<u32>(token) - segment_first;
                var key_codes = key_pack + within * (HEAD_WORDS * run.keys.bits);
                var value_codes = value_pack + within * (VALUE_PADDED / 32u * run.values.bits);
                if is_fine {
                    for (var t = 0u; t < CACHE_KEYS; t++) {
                        let index = (step - steps) * CACHE_KEYS + t;
                        var entry = 0xffffu;
                        if index < fine_tokens {
                            entry = fine_token(coded_keys, key_behind, value_behind, index);
                        }
                        let is_one = entry < cache.segment;
                        let place = select(0u, index, is_one);
                        within[t] = select(0u, entry, is_one);
                        token[t] = select(-1, i32(segment_first + within[t]), is_one);
                        key_codes[t] = key_behind + cache.codings[0].fine + place * (HEAD_PADDED / 4u);
                        value_codes[t] = value_behind + cache.codings[1].fine + place * (VALUE_PADDED / 4u);
                    }
                } else {
                    for (var index = 0u; index < fine_tokens; index++) {
                        let entry = fine_token(coded_keys, key_behind, value_behind, index);
                        token = select(token, vec4<i32>(-1), within == vec4<u32>(entry));
                    }
                }
                // Rows of f16 numbers are read as they lie from the run's first token on.
                let places = max(within + segment_first, vec4<u32>(first)) - first;
                var of_keys = vec4<f32>(1.0);
                var of_values = vec4<f32>(1.0);
                if coded_keys {
                    #for t in CACHE_KEYS: of_keys[$tu] = key_scale(key_behind, within[$tu]);
                }
                if coded_values {
                    #for t in CACHE_KEYS: of_values[$tu] = value_scale(value_behind, within[$tu]);
                }
                #for r in ROW_SETS: var s$r = vec4<f32>(0.0);
                let key_bits = select(run.keys.bits, 8u, is_fine && coded_keys);
                if key_bits == 16u {
#insert attention/decode/each_token with body = attention/decode/key_row
#for bits in KEY_WIDTHS
                } else if key_bits == $(bits)u {
#insert attention/decode/each_token with body = attention/decode/key_levels
#end KEY_WIDTHS
                }
                #for r in ROW_SETS: s$r = s$r * of_keys + base$r;
#insert attention/decode/weigh
                #for r in ROW_SETS: let weight$r = p$r * of_values;
                let value_bits = select(run.values.bits, 8u, is_fine && coded_values);
                if value_bits == 16u {
#insert attention/decode/each_token with body = attention/decode/value_row
#for bits in VALUE_WIDTHS
                } else if value_bits == $(bits)u {
#insert attention/decode/each_token with body = attention/decode/value_levels
#end VALUE_WIDTHS
                }
            }
        }
