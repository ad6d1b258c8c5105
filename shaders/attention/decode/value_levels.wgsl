// Rotated codes of four channels of one token, side by side.
                        let row = value_codes[$(token)];
#for c in VALUE_QUADS
                        {
                            let at = row + 4u * $(bits)u * $cu / 32u;
                            let shift = 4u * $(bits)u * $cu % 32u;
#if 32%bits
                            let word = window(value_words[at], value_words[at + select(0u, 1u, shift + 4u * $(bits)u > 32u)], shift) >> ($(bits)u * component);
#else
                            let word = value_words[at] >> (shift + $(bits)u * component);
#end
                            let level = level_$(bits)(word & ((1u << $(bits)u) - 1u));
                            #for r in ROW_SETS: o$r_$c += weight$r[$(token)] * level;
                        }
#end
