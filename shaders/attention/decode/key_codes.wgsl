// Codes of the step's tokens of one channel, side by side; a group has $(words) words.
                    let bit = start % GROUP * $(bits)u;
                    let shift = bit % 32u;
                    let at = key_pack + in_group * (HEAD_PADDED * $(words)) + bit / 32u;
#if 32%bits
                    // Such codes straddle words.
                    let next = select(0u, 1u, shift + CACHE_KEYS * $(bits)u > 32u);
#end
#for c in HEAD_QUADS
                    {
                        let here = at + 4u * $(words) * $cu;
                        var word = pick_word(vec4<u32>(key_words[here], key_words[here + $(words)], key_words[here + 2u * $(words)], key_words[here + 3u * $(words)]), odd, high) >> shift;
#if 32%bits
                        let far = here + next;
                        let rest = pick_word(vec4<u32>(key_words[far], key_words[far + $(words)], key_words[far + 2u * $(words)], key_words[far + 3u * $(words)]), odd, high);
                        word |= select(0u, rest << ((32u - shift) & 31u), next > 0u);
#end
                        #for r in ROW_SETS: let step$r = q$r_$c * step_$c;
#for t in CACHE_KEYS
                        let code$t = f32((word >> ($tu * $(bits)u)) & ((1u << $(bits)u) - 1u));
                        #for r in ROW_SETS: s$r[$t] += step$r * code$t;
#end
                    }
#end
