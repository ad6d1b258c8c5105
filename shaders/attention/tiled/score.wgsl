// The inner products of a step: s = ⟨q, k⟩ of every row with every key.
            #for r in ROWS_EACH, t in KEYS: var s$r_$t = 0.0;
#for c in OWN_HEAD_QUADS, t in KEYS
            let key$t_$c = $(key_quad);
            #for r in ROWS_EACH: s$r_$t += dot(q$r_$c, key$t_$c);
#end
