// o takes in the values of a step that every row sees whole.
#unless STAGED
#if PAGED
                #for t in KEYS: let v_at$t = v_first + paged_value(sequence, u32(j) + $tu);
#else
                // All of them exist: one row after the other.
                var v_next = v_first + u32(j) * v_stride;
#for t in KEYS
                let v_at$t = v_next;
                v_next += v_stride;
#end
#end PAGED
#end STAGED
#for c in OWN_VALUE_QUADS
#if SUMMED_FIRST
                #for r in ROWS_EACH: var part$r_$c = Quad();
#for t in KEYS
                let value$t_$c = $(value_quad);
                #for r in ROWS_EACH: part$r_$c += weight$r_$t * value$t_$c;
#end
#for r in ROWS_EACH
                #if LAZY: o$r_$c += vec4<f32>(part$r_$c);
                #unless LAZY: o$r_$c = o$r_$c * shrink$r + vec4<f32>(part$r_$c);
#end
#else
#for t in KEYS
                let value$t_$c = $(value_quad);
                #for r in ROWS_EACH: o$r_$c = fma(Quad(weight$r_$t), value$t_$c, o$r_$c);
#end
#end SUMMED_FIRST
#end OWN_VALUE_QUADS
