// Levels of the team's token. Of 32 channels the lane has eight, whose codes lie side by side.
                        #for r in ROW_SETS: var four$r = vec4<f32>(0.0);
                        let bit = component * 8u * $(bits)u;
                        let at = key_codes + bit / 32u;
#if 32%bits
                        // Such codes straddle words.
                        let past = select(0u, 1u, bit % 32u + 8u * $(bits)u > 32u);
#end
#for i in HEAD_CHUNKS
                        {
#if bits/8
                            let words = vec2<u32>(key_words[at + $iu * $(bits)u], key_words[at + $iu * $(bits)u + 1u]);
#else
#if 32%bits
                            let word = window(key_words[at + $iu * $(bits)u], key_words[at + $iu * $(bits)u + past], bit % 32u);
#else
                            let word = key_words[at + $iu * $(bits)u] >> (bit % 32u);
#end
                            let words = vec2<u32>(word, word >> (4u * $(bits)u));
#end
                            let mask = vec4<u32>((1u << $(bits)u) - 1u);
                            let low = units_$(bits)((vec4<u32>(words.x) >> (vec4<u32>(0u, 1u, 2u, 3u) * $(bits)u)) & mask);
                            let high = units_$(bits)((vec4<u32>(words.y) >> (vec4<u32>(0u, 1u, 2u, 3u) * $(bits)u)) & mask);
                            #for r in ROW_SETS: four$r += q$r_$i_0 * low + q$r_$i_1 * high;
                        }
#end
                        #for r in ROW_SETS: s$r = (four$r.x + four$r.y + four$r.z + four$r.w) * LEVEL_UNIT_$(bits);
