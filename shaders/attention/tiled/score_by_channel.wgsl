// As score.wgsl, summed by channel modulo 4 first: no add but those of multiply-adds, for four
// times the registers.
            #for r in ROWS_EACH, t in KEYS: var s$r_$t = 0.0;
            #for r in ROWS_EACH, t in KEYS, g in PARTIAL_SUMS: var sums$r_$t_$g = Quad();
#for c in OWN_HEAD_QUADS, t in KEYS
            let key$t_$c = $(key_quad);
            #for r in ROWS_EACH: sums$r_$t_$(c/PARTIAL_QUADS) = fma(q$r_$c, key$t_$c, sums$r_$t_$(c/PARTIAL_QUADS));
#end
            #for r in ROWS_EACH, t in KEYS, g in PARTIAL_SUMS: s$r_$t += sum_of(sums$r_$t_$g);
