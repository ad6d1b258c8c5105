TOKENS
#if HALF
                        // Rows of f16 numbers.
                        let row = value_block + (max(start + TOKEN, first) - first) * (VALUE_PADDED / 2u);
#for c in VALUE_QUADS
                        {
                            let word = select(v[row + 2u * $cu], v[row + 2u * $cu + 1u], high);
                            let value = halves(word >> select(0u, 16u, odd)).x;
#for r in ROW_SETS
                            o$r_$c += p$r[TOKEN] * value;
#end
                        }
#end
#else
                        // Codes of four channels of one token, side by side.
                        let within = start % cache.segment + TOKEN;
                        let row = value_block + within * (VALUE_PADDED / 32u * BITS);
                        let extremes = value_block + cache.segment * (VALUE_PADDED / 32u * BITS) + within * (VALUE_PADDED / GROUP);
#for g in VALUE_GROUPS
                        let pair$g = halves(v[extremes + $gu]);
                        let step$g = (pair$g.y - pair$g.x) * (1.0 / f32((1u << BITS) - 1u));
#for r in ROW_SETS
                        low$r_$g += p$r[TOKEN] * pair$g.x;
                        let weight$r_$g = p$r[TOKEN] * step$g;
#end
#end
#for c in VALUE_QUADS
                        {
                            let at = row + 4u * BITS * $cu / 32u;
                            let shift = 4u * BITS * $cu % 32u;
#if STRADDLE
                            let word = window(v[at], v[at + select(0u, 1u, shift + 4u * BITS > 32u)], shift) >> (BITS * component);
#else
                            let word = v[at] >> (shift + BITS * component);
#end
                            let code = f32(word & ((1u << BITS) - 1u));
#for r in ROW_SETS
                            o$r_$c += weight$r_$(c/GROUP_QUADS) * code;
#end
                        }
#end
#end
END_TOKENS
