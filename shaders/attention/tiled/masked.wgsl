// A step of which some row doesn't see all: each row takes what it sees, one key at a time. The
// rest is selected away, never multiplied by zero: it may be anything.
                for (var t = 0; t < min(i32(KEYS), end_key - j); t++) {
                    let v_at = $(lone_value);
#for r in ROWS_EACH
                    let seen$r = j + t >= $(seen_from) && j + t < own$r.hi;
                    var s$r = s$r_0;
                    #for t in KEYS: s$r = select(s$r, s$r_$t, t == $t);
                    let raised$r = select(maximum$r, max(maximum$r, s$r), seen$r);
                    let shrink$r = exp2(2.0 * (maximum$r - raised$r));
                    let p$r = select(0.0, exp2(2.0 * (s$r - raised$r)), seen$r);
                    sum$r *= shrink$r;
                    block_sum$r = block_sum$r * shrink$r + p$r;
                    maximum$r = raised$r;
#end
#for c in OWN_VALUE_QUADS
                    let value_$c = $(lone_quad);
                    #for r in ROWS_EACH: o$r_$c = o$r_$c * shrink$r + select(vec4<f32>(0.0), p$r * value_$c, seen$r);
#end
                }
