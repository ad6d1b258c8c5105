// The team's row of f16 numbers.
                        let row = key_pack + place * (HEAD_PADDED / 2u);
                        #for r in ROW_SETS: var four$r = vec4<f32>(0.0);
#for i in HEAD_CHUNKS, h in HALVES
                        {
                            let at = row + 2u * own_quad(2u * $iu + $hu, component);
                            let key = vec4<f32>(f16_pair(key_words[at]), f16_pair(key_words[at + 1u]));
                            #for r in ROW_SETS: four$r += q$r_$i_$h * key;
                        }
#end
                        #for r in ROW_SETS: s$r = four$r.x + four$r.y + four$r.z + four$r.w;
