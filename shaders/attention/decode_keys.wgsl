#if HALF
                    // Rows of f16 numbers.
TOKENS
                        let row = key_block + (max(start + TOKEN, first) - first) * (HEAD_PADDED / 2u);
#for r in ROW_SETS
                        var part$r = 0.0;
#end
#for c in HEAD_QUADS
                        {
                            let word = select(k[row + 2u * $cu], k[row + 2u * $cu + 1u], high);
                            let key = halves(word >> select(0u, 16u, odd)).x;
#for r in ROW_SETS
                            part$r += q$r_$c * key;
#end
                        }
#end
#for r in ROW_SETS
                        s$r = select(s$r, vec4<f32>(part$r), vec4<u32>(TOKEN) == vec4<u32>(0u, 1u, 2u, 3u));
#end
END_TOKENS
#else
                    // Codes of four tokens of one channel, side by side.
                    let bit = start % GROUP * BITS;
                    let shift = bit % 32u;
                    let at = key_block + in_group * (HEAD_PADDED * GROUP_WORDS) + bit / 32u;
#if STRADDLE
                    let next = select(0u, 1u, shift + 4u * BITS > 32u);
#end
#for c in HEAD_QUADS
                    {
                        let here = at + 4u * GROUP_WORDS * $cu;
                        var word = pick_word(vec4<u32>(k[here], k[here + GROUP_WORDS], k[here + 2u * GROUP_WORDS], k[here + 3u * GROUP_WORDS]), odd, high) >> shift;
#if STRADDLE
                        let far = here + next;
                        let rest = pick_word(vec4<u32>(k[far], k[far + GROUP_WORDS], k[far + 2u * GROUP_WORDS], k[far + 3u * GROUP_WORDS]), odd, high);
                        word |= select(0u, rest << ((32u - shift) & 31u), next > 0u);
#end
#for r in ROW_SETS
                        let step$r = q$r_$c * step_$c;
#end
#for t in FOUR
                        let code$t = f32((word >> ($tu * BITS)) & ((1u << BITS) - 1u));
#for r in ROW_SETS
                        s$r[$t] += step$r * code$t;
#end
#end
                    }
#end
#end
