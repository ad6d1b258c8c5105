// Rotated codes of four channels of one token, side by side.
                        let row = key_codes[$(token)];
                        #for r in ROW_SETS: var part$r = 0.0;
#for c in HEAD_QUADS
                        {
                            let at = row + 4u * $(bits)u * $cu / 32u;
                            let shift = 4u * $(bits)u * $cu % 32u;
#if 32%bits
                            let word = window(key_words[at], key_words[at + select(0u, 1u, shift + 4u * $(bits)u > 32u)], shift) >> ($(bits)u * component);
#else
                            let word = key_words[at] >> (shift + $(bits)u * component);
#end
                            let level = level_$(bits)(word & ((1u << $(bits)u) - 1u));
                            #for r in ROW_SETS: part$r += q$r_$c * level;
                        }
#end
#for r in ROW_SETS
                        s$r = select(s$r, vec4<f32>(part$r), vec4<u32>($(token)) == vec4<u32>(0u, 1u, 2u, 3u));
#end
