// The softmax takes in a step that every row sees whole: m, l and the weights p.
#for r in ROWS_EACH
                var raised$r = maximum$r;
                #for t in KEYS: raised$r = max(raised$r, s$r_$t);
#if LAZY
                // The maximum may stay behind, and then o isn't rescaled.
                if raised$r > maximum$r + RAISE_ABOVE {
                    let shrink$r = exp2(2.0 * (maximum$r - raised$r));
                    maximum$r = raised$r;
                    sum$r *= shrink$r;
                    block_sum$r *= shrink$r;
                    #for c in OWN_VALUE_QUADS: o$r_$c *= shrink$r;
                }
#else
                let shrink$r = exp2(2.0 * (maximum$r - raised$r));
                maximum$r = raised$r;
                sum$r *= shrink$r;
                block_sum$r *= shrink$r;
#end LAZY
#for t in KEYS
                let p$r_$t = exp2(2.0 * (s$r_$t - maximum$r));
                block_sum$r += p$r_$t;
                let weight$r_$t = Number(p$r_$t);
#end
#end
