// What the tokens of a step weigh, from their scores: `s`, of which each of the four lanes of a row
// has a part, `token` their numbers, of which those from `first` to `run_end` may be seen. What was
// summed up so far is rescaled.
#if SUBGROUP_QUADS
#for r in ROW_SETS
                s$r += quadSwapX(s$r);
                s$r += quadSwapY(s$r);
#end
#else
                #for r in ROW_SETS: parts[$ru * INVOCATIONS + lane] = s$r;
                workgroupBarrier();
#for r in ROW_SETS
                s$r = parts[$ru * INVOCATIONS + lane - component] + parts[$ru * INVOCATIONS + lane - component + 1u]
                    + parts[$ru * INVOCATIONS + lane - component + 2u] + parts[$ru * INVOCATIONS + lane - component + 3u];
#end
                workgroupBarrier();
#end
#if SCORED
                let known = clamp(token, vec4<i32>(0), vec4<i32>(i32(run_end) - 1));
                let at = vec4<i32>(
                    key_position(sequence, known.x),
                    key_position(sequence, known.y),
                    key_position(sequence, known.z),
                    key_position(sequence, known.w),
                );
#end
#for r in ROW_SETS
                let low$r = max(own$r.lo, i32(first));
                let high$r = min(own$r.hi, i32(run_end));
                let seen$r = (token >= vec4<i32>(low$r)) & (token < vec4<i32>(high$r));
#if SCORED
                let lag$r = vec4<i32>(position$r) - at;
                s$r = vec4<f32>(
                    positioned(capped(s$r.x), lag$r.x, phi_of(lag$r.x), slope$r),
                    positioned(capped(s$r.y), lag$r.y, phi_of(lag$r.y), slope$r),
                    positioned(capped(s$r.z), lag$r.z, phi_of(lag$r.z), slope$r),
                    positioned(capped(s$r.w), lag$r.w, phi_of(lag$r.w), slope$r),
                );
#else
                s$r = vec4<f32>(capped(s$r.x), capped(s$r.y), capped(s$r.z), capped(s$r.w));
#end
                s$r -= block.bias;
#if MASKED
                s$r += vec4<f32>(
                    masked_by(sequence, mask_at$r, clamp(token.x, 0, i32(run_end) - 1)),
                    masked_by(sequence, mask_at$r, clamp(token.y, 0, i32(run_end) - 1)),
                    masked_by(sequence, mask_at$r, clamp(token.z, 0, i32(run_end) - 1)),
                    masked_by(sequence, mask_at$r, clamp(token.w, 0, i32(run_end) - 1)),
                );
#end
                s$r = select(vec4<f32>(LOWEST), s$r, seen$r);
                let raised$r = max(max(max(s$r.x, s$r.y), max(s$r.z, s$r.w)), maximum$r);
                let shrink$r = exp2(2.0 * (maximum$r - raised$r));
                maximum$r = raised$r;
                let p$r = select(vec4<f32>(0.0), exp2(2.0 * (s$r - raised$r)), seen$r);
                sum$r *= shrink$r;
                block_sum$r = block_sum$r * shrink$r + p$r.x + p$r.y + p$r.z + p$r.w;
                #for c in VALUE_QUADS: o$r_$c *= shrink$r;
                #for g in VALUE_GROUPS: low$r_$g *= shrink$r;
#end
