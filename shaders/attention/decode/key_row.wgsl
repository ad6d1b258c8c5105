// A row of f16 numbers.
                        let row = key_pack + ($(row_at)) * (HEAD_PADDED / 2u);
                        #for r in ROW_SETS: var part$r = 0.0;
#for c in HEAD_QUADS
                        {
                            let word = select(key_words[row + 2u * $cu], key_words[row + 2u * $cu + 1u], high);
                            let key = f16_pair(word >> select(0u, 16u, odd)).x;
                            #for r in ROW_SETS: part$r += q$r_$c * key;
                        }
#end
#for r in ROW_SETS
                        s$r = select(s$r, vec4<f32>(part$r), vec4<u32>($(token)) == vec4<u32>(0u, 1u, 2u, 3u));
#end
