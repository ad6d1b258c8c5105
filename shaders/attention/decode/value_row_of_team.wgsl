// The team's row of f16 numbers.
                        let row = value_pack + place * (VALUE_PADDED / 2u);
#for i in VALUE_CHUNKS, h in HALVES
                        {
                            let at = row + 2u * own_quad(2u * $iu + $hu, component);
                            let value = vec4<f32>(f16_pair(value_words[at]), f16_pair(value_words[at + 1u]));
                            #for r in ROW_SETS: o$r_$i_$h += p$r * value;
                        }
#end
