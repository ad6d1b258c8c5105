// The states that the four teams have of a row become one, of which each writes a quarter.
    {
        shares[lane] = maximum$r;
        workgroupBarrier();
        let highest = max(
            max(shares[component], shares[LANES_EACH + component]),
            max(shares[2u * LANES_EACH + component], shares[3u * LANES_EACH + component]),
        );
        workgroupBarrier();
        let weight = exp2(2.0 * (maximum$r - highest));
#for i in VALUE_CHUNKS, h in HALVES
        #for n in QUAD: shares[INVOCATIONS * (8u * $iu + 4u * $hu + $nu) + lane] = weight * o$r_$i_$h[$n];
#end
        shares[4u * INVOCATIONS * VALUE_PARTS + lane] = weight * sum$r;
        workgroupBarrier();
        if place$r < count {
            let state = ((work.sequence * params.max_rows + u32(row$r)) * params.all_heads + params.first_head + head$r) * params.splits + split;
            for (var slot = team; slot <= 4u * VALUE_PARTS; slot += LANES_EACH) {
                let share = INVOCATIONS * slot + component;
                let total = shares[share] + shares[share + LANES_EACH] + shares[share + 2u * LANES_EACH] + shares[share + 3u * LANES_EACH];
                let channel = 32u * (slot / 8u) + 8u * component + slot % 8u;
                if slot < 4u * VALUE_PARTS && channel < 4u * VALUE_QUADS {
                    states[4u * STATE_QUADS * state + channel] = total;
                } else if slot == 4u * VALUE_PARTS && component < 2u {
                    states[4u * (STATE_QUADS * state + VALUE_QUADS) + component] = select(highest, total, component == 1u);
                }
            }
        }
        workgroupBarrier();
    }
