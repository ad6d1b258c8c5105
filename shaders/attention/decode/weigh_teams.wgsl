// What the team's token weighs in each row, from its scores: `s`, of which each of the four lanes
// of the team has a part, `token` its number, which may be seen from `first` to `run_end`. What the
// team summed up so far is rescaled where a maximum rose, which is seldom after the first tokens.
#if SUBGROUP_QUADS
#for r in ROW_SETS
                s$r += quadSwapX(s$r);
                s$r += quadSwapY(s$r);
#end
#else
                #for r in ROW_SETS: parts[$ru * INVOCATIONS + lane].x = s$r;
                workgroupBarrier();
#for r in ROW_SETS
                s$r = parts[$ru * INVOCATIONS + lane - component].x + parts[$ru * INVOCATIONS + lane - component + 1u].x
                    + parts[$ru * INVOCATIONS + lane - component + 2u].x + parts[$ru * INVOCATIONS + lane - component + 3u].x;
#end
                workgroupBarrier();
#end
#if SCORED
                let at = key_position(sequence, clamp(token, 0, i32(run_end) - 1));
#end
                var rises = false;
#for r in ROW_SETS
                let seen$r = token >= max(own$r.lo, i32(first)) && token < min(own$r.hi, i32(run_end));
#if SCORED
                let lag$r = position$r - at;
                s$r = positioned(capped(s$r), lag$r, phi_of(lag$r), slope$r);
#else
                s$r = capped(s$r);
#end
                s$r -= block.bias;
                #if MASKED: s$r += masked_by(sequence, mask_at$r, clamp(token, 0, i32(run_end) - 1));
                s$r = select(LOWEST, s$r, seen$r);
                let raised$r = max(s$r, maximum$r);
                let shrink$r = exp2(2.0 * (maximum$r - raised$r));
                rises = rises || raised$r > maximum$r;
                maximum$r = raised$r;
                let p$r = select(0.0, exp2(2.0 * (s$r - raised$r)), seen$r);
                sum$r *= shrink$r;
                block_sum$r = block_sum$r * shrink$r + p$r;
#end
                if rises {
#for r in ROW_SETS
                    #for i in VALUE_CHUNKS, h in HALVES: o$r_$i_$h *= shrink$r;
#end
                }
