// The keys of a block in a cache of rotated codes: run by run, and behind the tokens of a run, once
// more four at a time, its fine tokens, from their codes of 8 bits. Of the four tokens of a step
// each team of lanes has one, with all rows: so a level is computed once for all rows. Queries and
// outputs are turned where a run of rows follows one of codes, or the other way round.
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
                    var row: array<vec4<f32>, HEAD_PARTS>;
                    #for i in HEAD_CHUNKS, h in HALVES: row[2u * $iu + $hu] = q$r_$i_$h;
                    turn_head(&row, lane, component);
                    #for i in HEAD_CHUNKS, h in HALVES: q$r_$i_$h = row[2u * $iu + $hu];
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
                for (var t = 0u; t < HEAD_PARTS; t++) {
                    let at = means + 2u * own_quad(t, component);
                    let mean = vec4<f32>(f16_pair(key_words[at]), f16_pair(key_words[at + 1u]));
                    #for r in ROW_SETS: base$r += dot(plain_q$r[t], mean);
                }
            }
            let segment_first = first / cache.segment * cache.segment;
            let fine_tokens = select(0u, cache.fine_tokens, coded_keys || coded_values);
            let whole = first / CACHE_KEYS * CACHE_KEYS;
            let steps = (run_end - whole + CACHE_KEYS - 1u) / CACHE_KEYS;
            for (var step = 0u; step < steps + (fine_tokens + CACHE_KEYS - 1u) / CACHE_KEYS; step++) {
                let is_fine = step >= steps;
                // The team's token, −1 where it isn't to be seen here.
                var token = i32(whole + step * CACHE_KEYS + team);
                var within = u32(token) - segment_first;
                var key_codes = key_pack + within * (HEAD_WORDS * run.keys.bits);
                var value_codes = value_pack + within * (VALUE_PADDED / 32u * run.values.bits);
                if is_fine {
                    let index = (step - steps) * CACHE_KEYS + team;
                    let entry = fine_token(coded_keys, key_behind, value_behind, min(index, fine_tokens - 1u));
                    let is_one = index < fine_tokens && entry < cache.segment;
                    within = select(0u, entry, is_one);
                    token = select(-1, i32(segment_first + within), is_one);
                    let place = min(index, fine_tokens - 1u);
                    key_codes = key_behind + cache.codings[0].fine + place * (HEAD_PADDED / 4u);
                    value_codes = value_behind + cache.codings[1].fine + place * (VALUE_PADDED / 4u);
                } else {
                    for (var index = 0u; index < fine_tokens; index++) {
                        let entry = fine_token(coded_keys, key_behind, value_behind, index);
                        token = select(token, -1, within == entry);
                    }
                }
                // Rows of f16 numbers are read as they lie from the run's first token on.
                let place = max(within + segment_first, first) - first;
                var of_key = 1.0;
                var of_value = 1.0;
                if coded_keys {
                    of_key = key_scale(key_behind, within);
                }
                if coded_values {
                    of_value = value_scale(value_behind, within);
                }
                #for r in ROW_SETS: var s$r = 0.0;
                let key_bits = select(run.keys.bits, 8u, is_fine && coded_keys);
                if key_bits == 16u {
#insert attention/decode/key_row_of_team
#for bits in KEY_WIDTHS
                } else if key_bits == $(bits)u {
#insert attention/decode/key_levels
#end KEY_WIDTHS
                }
                #for r in ROW_SETS: s$r = s$r * of_key + base$r;
#insert attention/decode/weigh_teams
                #for r in ROW_SETS: let weight$r = p$r * of_value;
                let value_bits = select(run.values.bits, 8u, is_fine && coded_values);
                if value_bits == 16u {
#insert attention/decode/value_row_of_team
#for bits in VALUE_WIDTHS
                } else if value_bits == $(bits)u {
#insert attention/decode/value_levels
#end VALUE_WIDTHS
                }
            }
        }
