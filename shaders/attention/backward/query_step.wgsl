// One step: STEP queries from i on, for all keys of a lane.
                #for r in EACH, t in STEP: var s$r_$t = 0.0;
                #for r in EACH, t in STEP: var dp$r_$t = 0.0;
                #for t in STEP: let ending$t = endings[$t];
#for c in OWN_HEAD_QUADS, t in STEP
                let query$t_$c = $(query_part)[$tu * OWN_HEAD_QUADS + $cu];
                #for r in EACH: s$r_$t += dot(k$r_$c, query$t_$c);
#end
#for c in OWN_VALUE_QUADS, t in STEP
                let gradient$t_$c = $(gradient_part)[$tu * OWN_VALUE_QUADS + $cu];
                #for r in EACH: dp$r_$t += dot(v$r_$c, gradient$t_$c);
#end
                #if SHARED: #insert attention/backward/add_shares
                #if SCORED: #for t in STEP: let at$t = query_position(sequence, min(i + $t, last));
                #if MASKED: #for t in STEP: let mask_at$t = mask_row(sequence, params.first_head + head, min(i + $t, last));
#insert attention/backward/weights

                if i + i32(STEP) <= end_row && early.hi > keys.last && late.lo <= keys.first {
                    // Every query of this step sees every key of the tile.
#for c in OWN_HEAD_QUADS
                    #for r in EACH: var key_part$r_$c = vec4<f32>(0.0);
#for t in STEP
                    let again$t_$c = $(query_part)[$tu * OWN_HEAD_QUADS + $cu];
                    #for r in EACH: key_part$r_$c += ds$r_$t * again$t_$c;
#end
                    #for r in EACH: dk$r_$c += key_part$r_$c;
#end
#for c in OWN_VALUE_QUADS
                    #for r in EACH: var value_part$r_$c = vec4<f32>(0.0);
#for t in STEP
                    let once$t_$c = $(gradient_part)[$tu * OWN_VALUE_QUADS + $cu];
                    #for r in EACH: value_part$r_$c += p$r_$t * once$t_$c;
#end
                    #for r in EACH: dv$r_$c += value_part$r_$c;
#end
                } else {
                    for (var t = 0; t <= last - i; t++) {
                        let own = visible_keys(sequence, i + t);
                        let query_at = u32(t) * OWN_HEAD_QUADS;
                        let gradient_at = u32(t) * OWN_VALUE_QUADS;
#for r in EACH
                        let seen$r = safe_key$r >= own.lo && safe_key$r < own.hi;
                        var ds$r = ds$r_0;
                        var p$r = p$r_0;
                        #for t in STEP: ds$r = select(ds$r, ds$r_$t, t == $t);
                        #for t in STEP: p$r = select(p$r, p$r_$t, t == $t);
#end
#for c in OWN_HEAD_QUADS
                        let query_$c = $(query_part)[query_at + $cu];
                        #for r in EACH: dk$r_$c += select(vec4<f32>(0.0), ds$r * query_$c, seen$r);
#end
#for c in OWN_VALUE_QUADS
                        let gradient_$c = $(gradient_part)[gradient_at + $cu];
                        #for r in EACH: dv$r_$c += select(vec4<f32>(0.0), p$r * gradient_$c, seen$r);
#end
                    }
                }
