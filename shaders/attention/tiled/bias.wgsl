// What of a score isn't the inner product: the soft-cap, positions, β·ln p and a mask tensor.
#if SCORED
            #for t in KEYS: let at$t = key_position(sequence, min(j + $t, end_key - 1));
            #if WINDOWS: let lags = lags_of(sequence, rows, j);
#for r in ROWS_EACH
#if WINDOWS
            #for t in KEYS: var phi$r_$t: f32;
            if lags == LAGS_FAR {
                #for t in KEYS: phi$r_$t = phi_far(position$r - at$t);
            } else if lags == LAGS_NEAR {
                #for w in WINDOWS: let window$r_$w = phi_window(position$r - at0 - 4 * $w);
                #for t in KEYS: phi$r_$t = window$r_$(t/4)[$(t%4)];
            } else {
                #for t in KEYS: phi$r_$t = phi_of(position$r - at$t);
            }
#else
            #for t in KEYS: let phi$r_$t = phi_of(position$r - at$t);
#end
#end
#end
            if (params.flags & FLAG_SOFT_CAP) != 0u {
#for r in ROWS_EACH
                #for t in KEYS: s$r_$t = soft_capped(s$r_$t);
#end
            }
#for r in ROWS_EACH, t in KEYS
#if SCORED
            s$r_$t = positioned(s$r_$t, position$r - at$t, phi$r_$t, slope) - block.bias;
#else
            s$r_$t -= block.bias;
#end
            #if MASKED: s$r_$t += masked_by(sequence, mask_at$r, min(j + $t, end_key - 1));
#end
