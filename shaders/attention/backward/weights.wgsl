// Of a step's inner products s and dp: the weights p of its pairs, and the gradients ds of their
// inner products, in units of the score's scale. Where there is a bias, also what the gradient of
// its slope has of each pair, which is read for rows alone.
            #for r in EACH, t in STEP: var gain$r_$t = 1.0;
            if (params.flags & FLAG_SOFT_CAP) != 0u {
#for r in EACH, t in STEP
                s$r_$t = soft_capped(s$r_$t);
                let tanh$r_$t = s$r_$t * params.soft_cap_inverse;
                gain$r_$t = 1.0 - tanh$r_$t * tanh$r_$t;
#end
            }
#for r in EACH, t in STEP
#if SCORED
            let lag$r_$t = $(lag);
            let phi$r_$t = phi_of(lag$r_$t);
            s$r_$t = positioned(s$r_$t, lag$r_$t, phi$r_$t, slope);
            #if FACTOR: gain$r_$t *= params.factor_length / (params.factor_length + f32(abs(lag$r_$t)));
#end
            #if MASKED: s$r_$t += masked_by(sequence, $(pair_mask));
            let p$r_$t = exp2(2.0 * ((s$r_$t - bias) - $(row_lse)));
            let change$r_$t = p$r_$t * (dp$r_$t - $(row_delta));
            let ds$r_$t = change$r_$t * gain$r_$t;
            #if BIASED: let bent$r_$t = change$r_$t * slope_factor(lag$r_$t, phi$r_$t);
#end
