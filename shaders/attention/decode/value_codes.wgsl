// Codes of four channels of one token, side by side.
                        let within = start % cache.segment + $(token);
                        let row = value_pack + within * (VALUE_PADDED / 32u * $(bits)u);
                        let extremes = value_pack + cache.segment * (VALUE_PADDED / 32u * $(bits)u) + within * (VALUE_PADDED / GROUP);
#for g in VALUE_GROUPS
                        let pair$g = f16_pair(value_words[extremes + $gu]);
                        let step$g = (pair$g.y - pair$g.x) * (1.0 / f32((1u << $(bits)u) - 1u));
#for r in ROW_SETS
                        low$r_$g += p$r[$(token)] * pair$g.x;
                        let weight$r_$g = p$r[$(token)] * step$g;
#end
#end
#for c in VALUE_QUADS
                        {
                            let at = row + 4u * $(bits)u * $cu / 32u;
                            let shift = 4u * $(bits)u * $cu % 32u;
#if 32%bits
                            let word = window(value_words[at], value_words[at + select(0u, 1u, shift + 4u * $(bits)u > 32u)], shift) >> ($(bits)u * component);
#else
                            let word = value_words[at] >> (shift + $(bits)u * component);
#end
                            let code = f32(word & ((1u << $(bits)u) - 1u));
                            #for r in ROW_SETS: o$r_$c += weight$r_$(c*4/GROUP) * code;
                        }
#end
