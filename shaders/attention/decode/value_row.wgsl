// A row of f16 numbers.
                        let row = value_pack + ($(row_at)) * (VALUE_PADDED / 2u);
#for c in VALUE_QUADS
                        {
                            let word = select(value_words[row + 2u * $cu], value_words[row + 2u * $cu + 1u], high);
                            let value = f16_pair(word >> select(0u, 16u, odd)).x;
                            #for r in ROW_SETS: o$r_$c += p$r[$(token)] * value;
                        }
#end
